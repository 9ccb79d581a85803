"""The way to GitHub and back: one transport, and what each reply means.

gidgethub makes the URLs, headers and JSON; the transport is our own, because under its
aiohttp one a redirected POST becomes a GET that "succeeds", nothing times out for five
minutes, and a rate limit is an error like any other. Whatever happens, the caller sees
one of the four errors below `GitHubError`, never anything else.

Limits: https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar

import aiohttp
import gidgethub
import gidgethub.abc

from ci.adapters.github.clock import RemoteClock
from ci.errors import (
    CredentialRejected,
    GitHubBusy,
    GitHubError,
    GitHubRefused,
    GitHubUnavailable,
)

T = TypeVar("T")

_NEXT = re.compile(r'<([^<>]+)>;\s*rel="next"')

API_VERSION = "2022-11-28"
REPLY_LIMIT = 1 << 20

SHORTEST_PAUSE = 1.0
UNNAMED_PAUSE = 60.0
LONGEST_UNNAMED_PAUSE = 3600.0
LONGEST_PAUSE = 86400.0

# What gidgethub, the json module and our own reading raise for a success that makes no
# sense: a charset that no Python knows (LookupError), half a document (ValueError), a
# list where an object belongs (TypeError).
_NONSENSE = (
    gidgethub.GitHubException,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class Reply:
    """A document as it is now; `unchanged` when it still is what `etag` stands for.

    `more` is the address of the next page, empty on the last one.
    """

    document: Any
    etag: str
    more: str
    unchanged: bool


class Api(gidgethub.abc.GitHubAPI):
    """gidgethub over a transport that refuses redirects and sorts replies by fault.

    `clock`: GitHub's, from its last reply.
    `expiry`: what GitHub says of the token's end, as a phrase.
    """

    def __init__(self, requester: str, base_url: str, timeout: float) -> None:
        super().__init__(requester, base_url=base_url)
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._silent_until = 0.0
        self._unnamed_pauses = 0
        self._changing = asyncio.Lock()
        self.clock = RemoteClock()
        self.expiry = ""

    @property
    def clock_skew(self) -> float:
        """Seconds by which GitHub's clock is ahead of ours; 0 as long as it is unknown."""
        return self.clock.skew or 0.0

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def create(
        self, url: str, place: Mapping[str, str], document: Any, token: str
    ) -> Any:
        """POST `document`, insist on 201, return the reply's document."""
        data, _, status = await self._make_request(
            "POST",
            url,
            place,
            document,
            gidgethub.sansio.accept_format(),
            oauth_token=token,
        )
        if status != HTTPStatus.CREATED:
            raise GitHubUnavailable(f"GitHub answered {status} where 201 was expected")
        return data

    async def look(
        self, url: str, place: Mapping[str, str], token: str, etag: str = ""
    ) -> Reply:
        """GET a document, or learn that it is still the one that `etag` stands for.

        "Unchanged" costs nothing of the hour's limit:
        https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api
        """
        full = gidgethub.sansio.format_url(url, place, base_url=self.base_url)
        wanted = gidgethub.sansio.create_headers(self.requester, oauth_token=token)
        if etag:
            wanted["if-none-match"] = etag
        await self.manage_rate_limit(method="GET", url=full)
        status, headers, content = await self._exchange("GET", full, wanted, b"")
        unchanged = status == HTTPStatus.NOT_MODIFIED
        more = _NEXT.search(headers.get("Link", ""))
        return Reply(
            document=None if unchanged else json.loads(content),
            etag=headers.get("ETag", ""),
            more=more[1] if more else "",
            unchanged=unchanged,
        )

    async def _make_request(
        self, method: str, *arguments: Any, **options: Any
    ) -> tuple[Any, str | None, int]:
        """What changes something waits for the change before it, as GitHub asks."""
        if method == "GET":
            return await super()._make_request(method, *arguments, **options)
        async with self._changing:
            return await super()._make_request(method, *arguments, **options)

    async def manage_rate_limit(self, *, method: str, url: str) -> None:
        """Send nothing while GitHub wants silence."""
        left = self._silent_until - time.monotonic()
        if left > 0:
            raise GitHubBusy(
                f"GitHub asked for silence; {left:.0f} s of it are left",
                until=time.time() + left,
            )

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, Mapping[str, str], bytes]:
        status, told, content = await self._exchange(method, url, headers, body)
        if status == HTTPStatus.NOT_MODIFIED:
            raise GitHubUnavailable(f"GitHub answered 304 to {method} {url}, unasked")
        # gidgethub would stumble over headers of rate limits that it cannot read, and
        # a status that GitHub has taken would be posted again.
        return status, {"content-type": told.get("Content-Type", "")}, content

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its reply: a success, or 304; all else is raised."""
        # gidgethub would send the token to any absolute URL.
        if not url.startswith(f"{self.base_url}/"):
            raise GitHubUnavailable(f"{url} is not below {self.base_url}")
        asked = time.time()
        try:
            async with self._open_session().request(
                method,
                url,
                headers={**headers, "X-GitHub-Api-Version": API_VERSION},
                data=body,
                allow_redirects=False,
            ) as response:
                content = await _body(response)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = (
                _line(str(error)) or f"{type(error).__name__} after {self._timeout:g} s"
            )
            raise GitHubUnavailable(
                f"no answer from {self.base_url}: {reason}"
            ) from error
        self._note(response.headers, asked)
        good = 200 <= response.status < 300
        if not good and response.status != HTTPStatus.NOT_MODIFIED:
            raise self._fault(method, url, response.status, response.headers, content)
        self._unnamed_pauses = 0
        return response.status, response.headers, content

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _note(self, headers: Mapping[str, str], asked: float) -> None:
        moment = _moment(headers.get("Date", ""))
        self.clock.note(moment, asked)
        expiry = headers.get("GitHub-Authentication-Token-Expiration", "")
        self.expiry = f", expires {_line(expiry)}" if expiry else ""

    def _fault(
        self,
        method: str,
        url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> GitHubError:
        """The error that a reply other than success stands for."""
        said = _said(body)
        what = f"GitHub answered {status}{f' ({said})' if said else ''}"
        if _is_limit(status, headers, said):
            return self._silence(what, headers)
        if status == HTTPStatus.UNAUTHORIZED:
            return CredentialRejected(f"{what}: the credential is not accepted")
        path = url.removeprefix(self.base_url)
        if status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
            wanted = _line(headers.get("X-Accepted-GitHub-Permissions", ""))
            if not wanted and "/statuses/" in path:
                wanted = "statuses=write"
            return GitHubRefused(
                f"{what} to {method} {path}: does the credential reach this repository"
                f"{f' with {wanted}' if wanted else ''}?",
                status=status,
                permanent=False,
            )
        if status == HTTPStatus.UNPROCESSABLE_ENTITY:
            # A commit that was pushed a moment ago may not be known everywhere yet.
            unknown = said.startswith("No commit found")
            return GitHubRefused(what, status=status, permanent=not unknown)
        if 300 <= status < 400:
            target = _line(headers.get("Location", ""))
            return GitHubUnavailable(
                f"{what} to {method} {path}, to go to {target}: the repository was "
                "renamed, or api_url is not right; redirects are not followed"
            )
        return GitHubUnavailable(f"{what} to {method} {path}")

    def _silence(self, what: str, headers: Mapping[str, str]) -> GitHubBusy:
        pause = _named_pause(headers, time.time() + self.clock_skew)
        if pause is None:
            pause = min(UNNAMED_PAUSE * 2**self._unnamed_pauses, LONGEST_UNNAMED_PAUSE)
            self._unnamed_pauses = min(self._unnamed_pauses + 1, 10)
        pause = min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE)
        self._silent_until = time.monotonic() + pause
        # Read last, or who waits until then may still come too early.
        until = time.time() + pause
        return GitHubBusy(f"{what}: silence for {pause:.0f} s", until=until)


async def understood(asked: Awaitable[T]) -> T:
    """What `asked` gives; a reply that makes no sense raises GitHubUnavailable."""
    try:
        return await asked
    except _NONSENSE as error:
        raise GitHubUnavailable(
            f"GitHub's answer makes no sense: {type(error).__name__} {_line(str(error))}"
        ) from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """The body; raises ValueError when it is beyond all reason."""
    body = b""
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > REPLY_LIMIT:
            raise ValueError(f"the reply is longer than {REPLY_LIMIT} bytes")
    return body


def _is_limit(status: int, headers: Mapping[str, str], said: str) -> bool:
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.FORBIDDEN):
        return (
            status == HTTPStatus.TOO_MANY_REQUESTS
            or "Retry-After" in headers
            or headers.get("X-RateLimit-Remaining") == "0"
            or "rate limit" in said.lower()
        )
    return status >= 500 and "Retry-After" in headers


def _named_pause(headers: Mapping[str, str], github_now: float) -> float | None:
    """Seconds that GitHub asks for: Retry-After first, then the end of the hour."""
    asked = headers.get("Retry-After", "")
    if asked.isdecimal() and asked.isascii():
        return float(asked)
    moment = _moment(asked)
    if moment is not None:
        return moment - github_now
    reset = headers.get("X-RateLimit-Reset", "")
    exhausted = headers.get("X-RateLimit-Remaining") == "0"
    if exhausted and reset.isdecimal() and reset.isascii():
        return float(reset) - github_now + 1
    return None


def _moment(date: str) -> float | None:
    """Seconds since the epoch of an HTTP date, None for anything else."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _said(body: bytes) -> str:
    """The message of an error reply on one line; empty when it is not GitHub's JSON."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    details = [
        str(error.get("message") or error.get("code") or "")
        if isinstance(error, dict)
        else str(error)
        for error in (errors if isinstance(errors, list) else [])
    ]
    return _line("; ".join(filter(None, [str(document.get("message", "")), *details])))


def _line(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[:1000])
    return " ".join(printable.split())[:300]
