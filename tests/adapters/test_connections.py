"""What the peers of a listener may take, over real sockets and with short patience."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from ci.adapters.connections import (
    Bounds,
    Connection,
    Connections,
    protocol_factory,
)
from tests.fakes.waiting import PATIENCE, wait_until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = GET.replace(b"/", b"/wait", 1)
LARGE_GET = GET.replace(b"/", b"/large", 1)
HASTY = Bounds(first=0.4, head=0.2, taking=0.3, closing=0.3, head_size=2048)
# Hurries whoever owes something only after there was time enough to do it.
STEADY = Bounds(first=2.0, head=1.0, taking=1.0, closing=0.3)
PATIENT = Bounds(connections=4)
LARGE = 32 * 1024 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class House:
    """A small application behind `Connections`, and sockets to it."""

    def __init__(self, bounds: Bounds, stack: AsyncExitStack) -> None:
        self.connections = Connections(bounds)
        self.leave = asyncio.Event()
        self.made: list[Connection] = []
        self._stack = stack
        self.port = 0

    async def open(self, options: Mapping[str, Any]) -> None:
        application = web.Application()
        application.router.add_get("/", self._greet)
        application.router.add_get("/wait", self._wait)
        application.router.add_get("/large", self._large)
        application.router.add_post("/body", self._read)
        application.router.add_get("/broken", self._break)
        runner = web.AppRunner(application, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        assert runner.server is not None
        make = protocol_factory(runner.server, self.connections, options)

        def remember() -> Connection:
            self.made.append(make())
            return self.made[-1]

        loop = asyncio.get_running_loop()
        server = await loop.create_server(remember, "127.0.0.1", 0)
        self._stack.callback(self.leave.set)
        self._stack.callback(self.connections.stop)
        self._stack.callback(server.close)
        self.port = server.sockets[0].getsockname()[1]

    async def connect(self, first: bytes = b"") -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._stack.callback(writer.close)
        writer.write(first)
        return reader, writer

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """(status, head, body) of the answer; the connection must then be closed."""
        reader, _ = await self.connect(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split()[1]), head, body

    async def _greet(self, request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def _wait(self, request: web.Request) -> web.Response:
        await self.leave.wait()
        return web.Response(text="late")

    async def _large(self, request: web.Request) -> web.Response:
        return web.Response(body=bytes(LARGE))

    async def _read(self, request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def _break(self, request: web.Request) -> web.Response:
        raise RuntimeError("the password is hunter2")


@asynccontextmanager
async def house(bounds: Bounds, **options: Any) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        made = House(bounds, stack)
        await made.open({"logger": logging.getLogger("house"), **options})
        yield made


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Wait for it; aiohttp by itself would keep these for longer than this waits."""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(65536):
                pass


async def taking_nothing(port: int, request: bytes) -> socket.socket:
    """A peer with a small window that asks and then never reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    await asyncio.get_running_loop().sock_sendall(peer, request)
    return peer


async def test_what_is_believed_of_aiohttp() -> None:
    """`_waiter` is a future exactly while no whole request is there to be handled."""
    async with house(PATIENT) as made:
        reader, writer = await made.connect()
        await wait_until(lambda: len(made.connections) == 1)
        (connection,) = made.made
        await wait_until(lambda: connection.waiting, what="waiting for a request")
        writer.write(WAIT[:10])
        await wait_until(lambda: connection._head == 10, what="the half head")
        assert connection._waiter is not None
        assert not connection._waiter.done()
        writer.write(WAIT[10:])
        await wait_until(lambda: connection.request is not None)
        assert connection._waiter is None
        made.leave.set()
        await reader.readuntil(b"late")
        await wait_until(lambda: connection.waiting, what="waiting for the next one")
        assert connection.request is None
        writer.close()
        await wait_until(lambda: len(made.connections) == 0)


@pytest.mark.parametrize("begun", [b"", b"G", GET[:-2], b"GET / HTTP/1.1\r\nX: "])
async def test_who_does_not_finish_a_head_is_dropped(begun: bytes) -> None:
    async with house(HASTY) as made:
        before = time.monotonic()
        reader, _ = await made.connect(begun)
        await until_closed(reader)
        assert time.monotonic() - before > 0.1
        await wait_until(lambda: len(made.connections) == 0)


async def test_a_head_that_trickles_in_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(HASTY) as made:
        reader, writer = await made.connect(GET[:-2])
        closed = asyncio.create_task(until_closed(reader))
        while not closed.done():
            writer.write(b"X: y\r\n")
            await asyncio.wait([closed], timeout=0.02)
        await closed
    assert caplog.records == []


async def test_a_kept_connection_is_kept_and_its_next_head_is_bounded() -> None:
    async with house(STEADY) as made:
        reader, writer = await made.connect(GET)
        await reader.readuntil(b"hello")
        idle = made.connections
        await wait_until(lambda: idle._timer is None, what="an end of looking at it")
        late = time.monotonic() + 1.5 * STEADY.first
        await wait_until(lambda: time.monotonic() > late)
        writer.write(GET)
        await reader.readuntil(b"hello")
        writer.write(GET[:5])
        await until_closed(reader)


async def test_a_head_without_end_is_refused_early() -> None:
    async with house(Bounds(closing=0.3, head_size=2048)) as made:
        reader, writer = await made.connect()
        writer.write(GET[:-2])
        sent = 0
        answer = asyncio.create_task(reader.readuntil(b"}\n"))
        while not answer.done() and sent < 2**20:
            writer.write(b"X-More: and more of it\r\n")
            sent += 24
            await asyncio.sleep(0)
        # What was still on its way when it was closed can make a reset of it.
        with suppress(ConnectionError):
            assert b" 431 " in await answer
        assert sent < 2**20
        await wait_until(lambda: len(made.connections) == 0)


async def test_who_takes_nothing_of_an_answer_is_dropped() -> None:
    async with house(HASTY) as made:
        peer = await taking_nothing(made.port, LARGE_GET)
        await wait_until(lambda: len(made.connections) == 1)
        await wait_until(lambda: len(made.connections) == 0, what="the peer's end")
        peer.close()


async def test_what_is_left_of_an_answer_does_not_keep_its_connection() -> None:
    """Closing waits for the peer to take the rest, which it may never do."""
    async with house(Bounds(taking=600, closing=0.3)) as made:
        peer = await taking_nothing(made.port, LARGE_GET)
        (connection,) = await wait_until(lambda: made.made)
        await wait_until(lambda: connection._stalled is not None, what="a full pipe")
        connection.force_close()
        await wait_until(lambda: len(made.connections) == 0, what="the peer's end")
        peer.close()


async def test_a_newcomer_takes_the_place_of_who_has_not_asked_yet() -> None:
    async with house(PATIENT) as made:
        busy, _ = await made.connect(WAIT)
        kept, kept_writer = await made.connect(GET)
        await kept.readuntil(b"hello")
        silent, _ = await made.connect()
        half, _ = await made.connect(GET[:-2])
        await wait_until(lambda: len(made.connections) == 4)
        for reader in (silent, half):
            status, _, body = await made.ask(b"GET / HTTP/1.0\r\n\r\n")
            assert (status, body) == (200, b"hello")
            # One place is free now: fill it, so that the next one must be made.
            await made.connect()
            await wait_until(reader.at_eof, what="the oldest that has not asked")
        kept_writer.write(GET)
        assert (await kept.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        made.leave.set()
        assert await busy.readuntil(b"late")


async def test_half_a_body_goes_before_a_kept_connection_and_who_is_served_stays() -> (
    None
):
    async with house(PATIENT) as made:
        body = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234"
        half, _ = await made.connect(body)
        kept, _ = await made.connect(GET)
        await kept.readuntil(b"hello")
        served = [await made.connect(WAIT) for _ in range(2)]
        await wait_until(lambda: sum(c.request is not None for c in made.made) == 3)
        served.append(await made.connect(WAIT))
        await wait_until(half.at_eof, what="the half body's end")
        # Who has not asked yet would go before the kept one.
        await wait_until(lambda: len(made.made) == 5 and made.made[4].request)
        assert not kept.at_eof()
        served.append(await made.connect(WAIT))
        await wait_until(kept.at_eof, what="the kept connection's end")
        await wait_until(lambda: sum(c.request is not None for c in made.made) == 4)
        status, _, refused = await made.ask(GET)
        assert (status, json.loads(refused)["status"]) == (503, 503)
        made.leave.set()
        for reader, _ in served:
            assert await reader.readuntil(b"late")


async def test_an_answered_request_whose_body_still_comes_makes_room() -> None:
    async with house(PATIENT, lingering_time=30) as made:
        early = b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234"
        lingering = [await made.connect(early) for _ in range(4)]
        for reader, _ in lingering:
            await reader.readuntil(b"hello")
        assert (await made.ask(GET[:-2] + b"Connection: close\r\n\r\n"))[0] == 200


async def test_a_flood_leaves_the_newest_and_nothing_of_it_stays() -> None:
    async with house(Bounds(connections=16)) as made:
        streams = [await made.connect(GET[:7]) for _ in range(200)]
        assert (await made.ask(GET[:-2] + b"Connection: close\r\n\r\n"))[0] == 200
        assert len(made.connections) <= 16
        for _, writer in streams:
            writer.close()
        await wait_until(lambda: len(made.connections) == 0)


BROKEN = {
    "garbage": b"\x00\xff\x80 nothing\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a colon is missing": b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", BROKEN.values(), ids=BROKEN.keys())
async def test_what_is_no_http_is_told_nothing_of_what_runs_here(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(PATIENT) as made:
        status, head, body = await made.ask(request_bytes)
    shape = json.loads(body)
    assert (status, shape["status"], shape["detail"]) == (400, 400, {})
    assert b"Server: build-server\r\n" in head
    for word in (b"aiohttp", b"ython", b"data", b"status line"):
        assert word not in head + body
    (record,) = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("refused (400): ")


async def test_a_fault_and_what_is_not_spoken_here_have_the_same_shape(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(PATIENT) as made:
        close = b"Connection: close\r\n"
        for path, more, expected in (
            (b"/broken", b"", 500),
            (b"/", b"Expect: a-surprise\r\n", 417),
            (b"/nothing", b"Expect: a-surprise\r\n", 417),
            (b"/old", b"", 505),
            (b"/new", b"", 505),
        ):
            ask = GET.replace(b"/", path, 1)[:-2] + close + more + b"\r\n"
            ask = ask.replace(b"/old HTTP/1.1", b"/old")
            ask = ask.replace(b"/new HTTP/1.1", b"/new HTTP/2.0")
            status, head, body = await made.ask(ask)
            shape = json.loads(body)
            assert set(shape) == {"error", "status", "detail"}
            assert (status, shape["status"]) == (expected, expected)
            assert b"aiohttp" not in head
            assert b"hunter2" not in body
    assert "hunter2" in caplog.text


async def test_stopping_gives_who_dawdles_one_second() -> None:
    async with house(PATIENT) as made:
        body = b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234"
        half, _ = await made.connect(body)
        served, _ = await made.connect(WAIT)
        await wait_until(lambda: sum(c.request is not None for c in made.made) == 2)
        made.connections.stop()
        await until_closed(half)
        made.leave.set()
        assert await served.readuntil(b"late")
