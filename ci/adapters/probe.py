"""One look at an HTTP address: does anything answer, what, and at what time of its own?

No redirect is followed, no cookie kept and no proxy used.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ci.errors import NetworkDown
from ci.text import printable

MOST_BYTES = 4096


@dataclass(frozen=True)
class Answer:
    """The status, and the server's clock in seconds since the epoch if it told it."""

    status: int
    time: float | None


async def ask(method: str, url: str, *, timeout: float) -> Answer:  # noqa: ASYNC109
    """What `url` answers to a request without credential and body.

    Raises NetworkDown when nothing answers in `timeout` seconds.
    """
    limit = aiohttp.ClientTimeout(total=timeout)
    jar = aiohttp.DummyCookieJar()
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, cookie_jar=jar) as session,
            session.request(method, url, allow_redirects=False) as response,
        ):
            return Answer(response.status, _seconds(response.headers.get("Date", "")))
    except TimeoutError:
        raise NetworkDown(f"no answer from {url} in {timeout:g} s") from None
    except aiohttp.ClientError as error:
        raise NetworkDown(f"no answer from {url}: {printable(str(error))}") from error


@dataclass(frozen=True)
class Reply:
    """What answered: the status, who it says it is, and the beginning of the body."""

    status: int
    server: str
    body: bytes


class Kind(StrEnum):
    """Why there was no answer, as far as the remedies differ."""

    REFUSED = "refused"
    NO_ROUTE = "no route"
    CERTIFICATE = "certificate"
    BROKEN = "broken"
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Silence:
    """No answer: the kind, and the reason as the system words it."""

    kind: Kind
    reason: str


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    address: str,
    timeout: float,  # noqa: ASYNC109
) -> Reply | Silence:
    """POST to `url` at the IP `address`, whatever its name resolves to here.

    Host, SNI and the check of the certificate are those of the name in `url`. Ends
    within `timeout` seconds.
    """
    connector = aiohttp.TCPConnector(
        resolver=_Pinned(address), use_dns_cache=False, force_close=True
    )
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.post(
                url,
                data=body,
                headers={"Accept-Encoding": "identity", **headers},
                allow_redirects=False,
            ) as response,
        ):
            content = await _beginning(response)
    except TimeoutError:
        return Silence(Kind.TIMEOUT, f"no answer in {timeout:g} s")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _silence(error)
    server = printable(response.headers.get("Server", ""))[:100]
    return Reply(response.status, server, content)


class _Pinned(AbstractResolver):
    """Every name is at this one address."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port=port,
                family=family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in response.content.iter_chunked(MOST_BYTES):
        body += chunk
        if len(body) >= MOST_BYTES:
            break
    return body[:MOST_BYTES]


def _silence(error: Exception) -> Silence:
    """Which kind of silence an error of aiohttp's is."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        cause = error.certificate_error
        reason = getattr(cause, "verify_message", "") or str(cause)
        return Silence(Kind.CERTIFICATE, printable(reason))
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        if error.errno == errno.ECONNREFUSED:
            return Silence(Kind.REFUSED, "connection refused")
        if error.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL):
            return Silence(Kind.NO_ROUTE, printable(reason))
    return Silence(Kind.BROKEN, printable(str(error)) or type(error).__name__)


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
