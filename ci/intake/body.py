"""Reading request bodies from strangers: bounded in size, time, number and memory."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ci.errors import RequestError

MIB = 1024 * 1024
# GitHub's own cap: it delivers nothing larger.
MAX_BODY = 25 * MIB


class BodyReader:
    """Reads bodies of at most `limit` bytes within `seconds` each.

    aiohttp has no time limit for bodies, so senders who dawdle would pile up. At most
    `readers` may be under way, holding at most `memory` bytes together; beyond that
    the one that has been silent longest is given up, with the status `given_up`. A
    sender who keeps sending is never that one as long as others dawdle, so no number of
    half-sent bodies keeps an honest delivery out.
    """

    def __init__(
        self,
        *,
        limit: int = MAX_BODY,
        seconds: float = 8.0,
        readers: int = 128,
        memory: int = 4 * MAX_BODY,
        given_up: int = 408,
    ) -> None:
        self.limit = limit
        self._seconds = seconds
        self._readers = readers
        self._memory = memory
        self._given_up = given_up
        self._held = 0
        # Deadline of each reader -> the bytes it holds, the longest silent first.
        self._under_way: dict[asyncio.Timeout, int] = {}

    async def read(self, request: web.Request) -> bytes:
        """The raw body.

        Raises RequestError: 413 (too large), 408 (too slow), `given_up` (room was
        needed), 400 (it broke off).
        """
        if (request.content_length or 0) > self.limit:
            raise self._too_large()
        if request.content.is_eof():
            # The usual delivery came with its headers in one piece.
            body = request.content.read_nowait()
            if len(body) > self.limit:
                raise self._too_large()
            return body
        return await self._read_slowly(request)

    async def _read_slowly(self, request: web.Request) -> bytes:
        body = bytearray()
        deadline = asyncio.timeout(self._seconds)
        self._under_way[deadline] = 0
        try:
            async with deadline:
                self._make_room()
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self.limit:
                        raise self._too_large()
                    self._hold(deadline, len(chunk))
        except TimeoutError:
            raise self._too_slow(deadline) from None
        except (ConnectionError, web.RequestPayloadError):
            raise RequestError(400, "the body broke off before its end") from None
        finally:
            self._held -= self._under_way.pop(deadline, 0)
        return bytes(body)

    def _hold(self, deadline: asyncio.Timeout, size: int) -> None:
        if deadline not in self._under_way:
            # Given up a moment ago, before its task could notice.
            raise TimeoutError
        # To the end: it is the one that spoke last.
        self._under_way[deadline] = self._under_way.pop(deadline) + size
        self._held += size
        self._make_room()

    def _make_room(self) -> None:
        if len(self._under_way) > self._readers or self._held > self._memory:
            silent = next(iter(self._under_way))
            self._held -= self._under_way.pop(silent)
            if not silent.expired():
                silent.reschedule(asyncio.get_running_loop().time())

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self.limit} bytes")

    def _too_slow(self, deadline: asyncio.Timeout) -> RequestError:
        if deadline in self._under_way:
            return RequestError(408, "the body did not arrive in time")
        return RequestError(
            self._given_up,
            "the body did not arrive in time, and others needed its place",
        )
