"""A TCP relay between us and a server, that fails in the ways networks fail.

    async with fault_proxy(server.port) as proxy:
        proxy.fault = Stall(after=1000)

What happens is decided for each connection when it is made; `cure()` and `hang_up()` end
those that there are. Counted are the bytes that the server sends, the way to it is always open.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from tests.fakes.ports import keep_port, port_of

PIECE = 64 * 1024


@dataclass(frozen=True)
class Fault:
    """The first `after` bytes of the answer pass; then what the class says."""

    after: int = 0


class Cut(Fault):
    """The connection is closed in an orderly way: a short answer."""


class Reset(Fault):
    """The connection is reset."""


class Stall(Fault):
    """Nothing more comes, and the connection stays: a peer that is gone."""


class Swallow(Fault):
    """The server is asked and answers, the answer is lost and the connection reset."""


@dataclass(frozen=True)
class Drip(Fault):
    """The rest comes at `rate` bytes a second."""

    rate: int = 100


@dataclass(frozen=True)
class Babble(Fault):
    """Instead of the rest comes `piece`, again and again, without an end.

    With `times` it ends, and the connection with it.
    """

    piece: bytes = b"\0" * 1024
    times: int | None = None


@dataclass
class Proxy:
    """Relays to `port` of this host. `fault` None: a good network."""

    target: int
    fault: Fault | None = None
    connections: int = 0
    hanging: int = 0
    closed: bool = True
    _server: asyncio.Server | None = None
    _kept: socket.socket = field(default_factory=keep_port)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def port(self) -> int:
        """Ours while it is closed, too."""
        return port_of(self._kept)

    def url(self, url: str) -> str:
        """The same address, reached through here."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"127.0.0.1:{self.port}"))

    async def open(self) -> None:
        """Take connections; after `close`, again at the same port."""
        self.closed = False
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, reuse_address=True
        )

    async def close(self) -> None:
        """Refuse connections from now on, and end those that there are."""
        self.closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.hang_up()

    async def give_up(self) -> None:
        """Close for good: the port may be anybody's."""
        await self.close()
        self._kept.close()

    async def cure(self) -> None:
        """A good network from now on."""
        self.fault = None
        await self.hang_up()

    async def hang_up(self) -> None:
        """End the connections that there are; the next ones fare no better."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.closed:
            # It was taken in the moment before.
            return _reset(writer)
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._relay(reader, writer, self.fault)
        except (OSError, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
    ) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self.target)
        asking = asyncio.create_task(_copy(reader, below))
        try:
            await self._answer(above, writer, fault)
        finally:
            asking.cancel()
            below.close()

    async def _answer(
        self,
        above: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        fault: Fault | None,
    ) -> None:
        left = PIECE if fault is None else fault.after
        while piece := await above.read(min(PIECE, max(left, 1))):
            if fault is not None and (isinstance(fault, Swallow) or left <= 0):
                return await self._fail(fault, piece, above, writer)
            writer.write(piece)
            await writer.drain()
            if fault is not None:
                left -= len(piece)

    async def _fail(
        self,
        fault: Fault,
        piece: bytes,
        above: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        match fault:
            case Cut():
                return
            case Reset() | Swallow():
                _reset(writer)
            case Stall():
                self.hanging += 1
                try:
                    await asyncio.Event().wait()
                finally:
                    self.hanging -= 1
            case Drip(rate=rate):
                while piece:
                    for at in range(0, len(piece), max(1, rate // 10)):
                        writer.write(piece[at : at + max(1, rate // 10)])
                        await writer.drain()
                        await asyncio.sleep(1 / 10 if rate else 0)
                    piece = await above.read(PIECE)
            case Babble(piece=words, times=times):
                while times is None or times > 0:
                    writer.write(words)
                    await writer.drain()
                    times = times if times is None else times - 1


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST: the other side loses even what is on its way."""
    held: socket.socket | None = writer.get_extra_info("socket")
    if held is not None:
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def fault_proxy(target: int) -> AsyncIterator[Proxy]:
    """A proxy before `target`, a port of this host, for as long as the block lasts."""
    proxy = Proxy(target)
    try:
        await proxy.open()
        yield proxy
    finally:
        await proxy.give_up()
