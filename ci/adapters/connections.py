"""The connections of one listener: how many, for how long, and how much each may hold.

aiohttp's server waits for the first request as long as for the next one on a kept
connection, lets a request's head take as long as it likes, never gives up a peer who
takes none of its answer, and has no limit of connections. Here each of these has one.
Time is looked at once a second for all of them, and not at all while every peer has
done its part: the usual request pays for a few comparisons and no timer of its own.

What is no HTTP is answered in the one error shape, without the versions that aiohttp
would tell. This module alone leans on an inside of aiohttp (`RequestHandler._waiter`);
tests/adapters/test_connections.py says what it believes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from ci.adapters.refusals import bare_refusal, refusal
from ci.text import printable

# Seconds between two looks at the time.
LOOK = 1.0
# Seconds that half-sent bodies get when the server stops.
LAST_CHANCE = 1.0
# Seconds. Go's reverse proxies (tailscaled) close idle connections after 90 s; were we
# the first to close, a delivery sent at that moment would be lost.
DEFAULTS = {"keepalive_timeout": 120.0, "lingering_time": 2.0}


@dataclass(frozen=True)
class Bounds:
    """What the peers of one listener may take; seconds and bytes.

    `first`: until the first byte comes; `head`: from it to the end of the headers, which
    have at most `head_size`; `taking`: without taking anything of an answer; `closing`:
    until the peer has taken what was still to be sent.
    """

    connections: int = 2048
    first: float = 20.0
    head: float = 10.0
    taking: float = 60.0
    closing: float = 30.0
    head_size: int = 32 * 1024


class Connections:
    """The open connections of one listener.

    When there are too many, the newcomer takes the place of one that waits for its peer:
    for (the rest of) a head or a body, or for an answer to be taken; the one that has
    been silent longest. Without such, of one that is kept for its next request. Whoever
    is being answered stays.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._loop = asyncio.get_running_loop()
        # In the order in which they were opened.
        self._open: dict[Connection, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._interval = min(LOOK, bounds.first / 4, bounds.head / 4)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, newcomer: Connection) -> bool:
        """Make room for one more; False when there is none to be made."""
        if len(self._open) >= self.bounds.connections:
            found = self._least_missed()
            if found is None:
                return False
            self._drop(found)
        self._open[newcomer] = None
        self.watch()
        return True

    def watch(self) -> None:
        """Somebody's part is to be done: look at the time until it is."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._interval, self._look)

    def forget(self, connection: Connection) -> None:
        """It is closed; harmless when it was dropped before."""
        self._open.pop(connection, None)

    def stop(self) -> None:
        """Give whoever is not being answered one more second, so that stopping ends."""
        self._loop.call_later(LAST_CHANCE, self._drop_all_that_wait)

    def _look(self) -> None:
        now = self._loop.time()
        for connection in [one for one in self._open if one.overdue(now)]:
            self._drop(connection)
        self._timer = None
        if not all(connection.at_rest for connection in self._open):
            self.watch()

    def _least_missed(self) -> Connection | None:
        places = [(one.place(), one) for one in self._open]
        waiting = [(place, one) for place, one in places if place is not None]
        return min(waiting, key=itemgetter(0))[1] if waiting else None

    def _drop_all_that_wait(self) -> None:
        for connection in [one for one in self._open if one.place() is not None]:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        # At once, not when the transport has noticed: the next one needs its place.
        self.forget(connection)
        connection.drop()


class Connection(web.RequestHandler):
    """One connection; aiohttp's own, which looks at the clock."""

    __slots__ = (
        "_busy",
        "_closing",
        "_connections",
        "_head",
        "_since",
        "_spoken",
        "_stalled",
        "_wire",
        "request",
    )

    def __init__(
        self, manager: web.Server, connections: Connections, **options: Any
    ) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        # The request in work. One that has arrived makes busy, before it is in work.
        self.request: web.BaseRequest | None = None
        self._busy = False
        # When it was opened, a head began or was whole, or a piece of a body came.
        self._since = self._loop.time()
        # Bytes of a head that is not complete, and whether any head ever was.
        self._head = 0
        self._spoken = False
        # Since when the peer takes nothing, and since when all that is left is to close.
        self._stalled: float | None = None
        self._closing: float | None = None
        # aiohttp forgets its transport as soon as it closes it.
        self._wire: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        if self._connections.admit(self):
            super().connection_made(transport)
        else:
            self.logger.warning("refused (503): no connection can be spared")
            self._wire.write(bare_refusal(503))
            self._wire.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            # A head is whole, or a request in work: these bytes are of its body.
            self._since = self._loop.time()
            if waiter is not None:
                self._spoken, self._busy, self._head = True, True, 0
            return
        if not self._head:
            self._since = self._loop.time()
            self._connections.watch()
        self._head += len(data)
        if self._head > self._connections.bounds.head_size:
            self._refuse_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self._loop.time()
        self._connections.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = None

    def eof_received(self) -> None:
        super().eof_received()
        self._connections.watch()

    def force_close(self) -> None:
        super().force_close()
        self._connections.watch()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be handled in the one shape; the log has the details."""
        if isinstance(exc, HttpProcessingError):
            said = printable(exc.message.partition("\n")[0])
            self.logger.warning("refused (%d): %s", status, said)
        else:
            self.logger.error("a request could not be handled", exc_info=exc)
        self._connections.watch()
        if request.writer.output_size > 0:
            raise ConnectionError("another answer has begun")
        response = refusal(status)
        response.force_close()
        return response

    @property
    def waiting(self) -> bool:
        """Whether there is no whole request to be handled."""
        return self._waiter is not None and not self._waiter.done()

    @property
    def closing(self) -> bool:
        """Whether all that is left is what the peer has not taken yet."""
        return self._wire is not None and self._wire.is_closing()

    @property
    def at_rest(self) -> bool:
        """Whether its peer owes nothing: it is being served, or kept for later."""
        if self.closing or self._stalled is not None:
            return False
        return self._busy or (self.waiting and self._spoken and not self._head)

    def begin(self, request: web.BaseRequest) -> None:
        """The request is given to its handler."""
        self._busy, self.request = True, request

    def end(self) -> None:
        """The handler has made its answer; sending it is for aiohttp and the peer."""
        self._busy, self.request = False, None
        self._connections.watch()

    def overdue(self, now: float) -> bool:
        """Whether it is to be dropped at the time `now` of the loop."""
        bounds = self._connections.bounds
        if self.closing:
            self._closing = self._closing or now
            return now - self._closing > bounds.closing
        if self._stalled is not None:
            return now - self._stalled > bounds.taking
        if not self.waiting:
            return False
        if self._head:
            return now - self._since > bounds.head
        return not self._spoken and now - self._since > bounds.first

    def place(self) -> tuple[bool, float] | None:
        """Where it stands among those to be dropped, the least first; None: it stays.

        Whether it is kept for another request, and since when nothing came.
        """
        if self.waiting and not self.closing:
            kept = self._spoken and not self._head
            return (kept, self._since)
        request = self.request
        half_body = request is not None and not request.content.is_eof()
        left = self.closing or not self._busy or half_body
        return (False, self._since) if left else None

    def drop(self) -> None:
        """Close it at once, whatever is on its way."""
        if self._wire is not None:
            self._wire.abort()

    def _refuse_head(self) -> None:
        if self.transport is not None:
            self.transport.write(bare_refusal(431))
        self.force_close()


def protocol_factory(
    server: web.Server, connections: Connections, options: Mapping[str, Any]
) -> Callable[[], Connection]:
    """What a listening socket makes its connections with.

    `options` are those of aiohttp's AppRunner that concern one connection. Bodies are
    never unpacked, so nothing unfolds before somebody has looked at it.
    """
    server.request_handler = _watched(server.request_handler)
    fixed = {"access_log": None, "auto_decompress": False}
    given = {**DEFAULTS, **options, **fixed}
    return lambda: Connection(server, connections, **given)


def _misspoken(request: web.BaseRequest) -> web.Response | None:
    """The refusal of a version that the parser takes and nobody here speaks."""
    version = request.version
    if version[0] != 1:
        refused = refusal(505)
    elif version[1] == 0 and hdrs.TRANSFER_ENCODING in request.headers:
        # Whoever stands between may see another end of the body (RFC 9112, 6.1).
        refused = refusal(400)
    else:
        return None
    refused.force_close()
    return refused


Handle = Callable[[Any], Awaitable[web.StreamResponse]]


def _watched(handle: Handle) -> Handle:
    """`handle`, but the connection knows what it works on.

    What no middleware of the application sees, such as an unknown `Expect`, is answered
    in the one shape here.
    """

    async def watched(request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(Connection, request.protocol)
        connection.begin(request)
        try:
            refused = _misspoken(request)
            return await handle(request) if refused is None else refused
        except web.HTTPException as error:
            return refusal(error.status, error.reason.lower())
        finally:
            connection.end()

    return watched
