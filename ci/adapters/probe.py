"""One look at an HTTP address: does anything answer, what, and at what time of its own?

Nothing is sent but the request line: no credential, no body; no redirect is followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp

from ci.errors import NetworkDown
from ci.text import printable


@dataclass(frozen=True)
class Answer:
    """The status, and the server's clock in seconds since the epoch if it told it."""

    status: int
    time: float | None


async def ask(method: str, url: str, *, timeout: float) -> Answer:  # noqa: ASYNC109
    """What `url` answers; raises NetworkDown when nothing does in `timeout` seconds."""
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


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
