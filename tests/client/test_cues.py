"""When a client that waits asks: as soon as there is news, and seldom otherwise."""

from __future__ import annotations

import asyncio
import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiohttp import web

from ci.client.address import Address
from ci.client.api import Api
from ci.client.cues import Cues
from ci.client.http import Server
from ci.models import BuildState, Target
from ci.serve.service import SERVICE
from tests.client.conftest import House
from tests.client.older import Handler, in_front, refusal, without_news
from tests.client.programs import end_of, next_hint, next_line
from tests.fakes.waiting import wait_until

TARGETS = (Target("checks.one", BuildState.RUNNING),)
# Shorter than the time between two signs of life of a stream.
SOON = 8.0
SECONDS = 20.0
EVENTS = {"Content-Type": "text/event-stream"}
LOOK, LOG = b"GET /builds/1 200", b"GET /build/logs"


async def _running(house: House) -> int:
    return await house.served.add(1, BuildState.RUNNING, targets=TARGETS, log=b"a\n")


def _listeners(house: House) -> int:
    return len(house.application_now[SERVICE].news.listeners)


async def test_nothing_is_asked_while_nothing_happens(house: House) -> None:
    number = await _running(house)
    terminal = await house.open_terminal("bs", "-w", "-v", NO_COLOR="1")
    await wait_until(lambda: _listeners(house) == 1)
    # Who had no stream would look once a second at least.
    seen: list[tuple[int, int, int]] = []

    def nothing_for_a_while(lines: list[str]) -> bool:
        shown = re.search(r"> (\d+)s", "\n".join(lines))
        if shown is None:
            return False
        looks, logs = (terminal.shown.count(asked) for asked in (LOOK, LOG))
        if seen and seen[0][1] != looks:
            seen.clear()
        seen.append((int(shown[1]), looks, logs))
        return seen[-1][0] - seen[0][0] >= 6

    await terminal.sees(nothing_for_a_while)
    # Of a log that does not grow, less and less often.
    assert seen[-1][2] - seen[0][2] <= 3
    await house.served.finish(number, BuildState.SUCCEEDED)
    async with asyncio.timeout(SOON):
        ran = await terminal.end()
    assert ran.code == 0


async def test_a_change_is_seen_at_once(house: House) -> None:
    number = await _running(house)
    process = await house.start("bs", "-w", str(number))
    assert "running" in await next_hint(process)
    await wait_until(lambda: _listeners(house) == 1)
    async with asyncio.timeout(SOON):
        await house.end_target(number, "checks.one", "failed", "no")
        assert await next_line(process) == "checks.one\tfailed\t8\tno\n"
        await house.served.finish(number, BuildState.FAILED)
        ran = await end_of(process)
    assert (ran.code, ran.err) == (1, "")
    await wait_until(lambda: _listeners(house) == 0)


async def _full(request: web.Request) -> web.StreamResponse:
    return refusal(503, "2000 pages listen already")


async def _hang(request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    return web.Response()


async def _keep_all(request: web.Request) -> web.StreamResponse:
    """A proxy that passes on what it has when it is over."""
    response = web.StreamResponse(headers=EVENTS)
    await response.prepare(request)
    await asyncio.Event().wait()
    return response


async def _cut(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=EVENTS)
    await response.prepare(request)
    await response.write(b"event: hello\n\n")
    assert request.transport is not None
    request.transport.abort()
    return response


async def _over(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"event: hello\n\n", headers=EVENTS)


async def _stranger(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<p>log in first", content_type="text/html")


@pytest.mark.parametrize(
    "news", [without_news, _full, _hang, _keep_all, _cut, _over, _stranger]
)
async def test_without_a_stream_it_asks_again_and_again(
    house: House, news: Handler
) -> None:
    number = await _running(house)
    async with in_front(house.url, news) as front:
        process = await house.start("bs", "-w", "--server", front.url, str(number))
        assert "running" in await next_hint(process)
        looks = front.looks
        await wait_until(lambda: front.looks > looks + 2, 60)
        await house.end_target(number, "checks.one", "succeeded", "")
        assert await next_line(process) == "checks.one\tsucceeded\t8\t-\n"
        await house.served.finish(number, BuildState.SUCCEEDED)
        ran = await end_of(process)
    assert (ran.code, ran.err) == (0, "")


async def test_a_look_that_failed_is_made_up_for_without_another_cue(
    house: House,
) -> None:
    number = await _running(house)
    cue = asyncio.Event()

    async def one_more(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENTS)
        await response.prepare(request)
        await response.write(b"event: hello\n\n")
        await cue.wait()
        await response.write(b"event: build\n\n")
        await asyncio.Event().wait()
        return response

    async with in_front(house.url, one_more) as front:
        process = await house.start("bs", "-w", "--server", front.url, str(number))
        await next_hint(process)
        await wait_until(lambda: front.looks >= 2, 60)
        front.failures = 2
        await house.end_target(number, "checks.one", "succeeded", "")
        cue.set()
        assert "locked; trying again" in await next_hint(process)
        async with asyncio.timeout(SOON):
            assert "is back" in await next_hint(process)
            assert (await next_line(process)).startswith("checks.one\tsucceeded")
        process.terminate()
        await process.wait()


class _Stream(BaseHTTPRequestHandler):
    """An event stream that says a word whenever `says` is released."""

    protocol_version = "HTTP/1.1"
    says = threading.Semaphore(0)
    opened = 0

    def do_GET(self) -> None:
        type(self).opened += 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while self.says.acquire(timeout=SECONDS):
            self.wfile.write(b"4\r\n: a\n\r\n")
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _streaming() -> Iterator[tuple[Api, type[_Stream]]]:
    stream = type("_Said", (_Stream,), {"says": threading.Semaphore(0)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), stream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = Address(f"127.0.0.1:{server.server_port}", "a test")
        yield (
            Api(
                Server(
                    address,
                    timeout=SECONDS,
                    token=lambda: None,
                    trace=lambda text: None,
                )
            ),
            stream,
        )
    finally:
        server.shutdown()
        server.server_close()


def _begin(cues: Cues, stream: type[_Stream]) -> None:
    stream.says.release()
    assert cues.given()
    assert cues.descriptors


def _word(cues: Cues, stream: type[_Stream]) -> None:
    stream.says.release()
    assert select.select(cues.descriptors, [], [], SECONDS)[0]


def test_it_is_time_after_each_word_and_not_between() -> None:
    with _streaming() as (api, stream), Cues(api, 1) as cues:
        _begin(cues, stream)
        for _ in range(3):
            _word(cues, stream)
            assert cues.given()
            assert [cues.given() for _ in range(100)] == [False] * 100
        assert stream.opened == 1


def test_a_stream_that_fell_silent_is_given_up() -> None:
    with _streaming() as (api, stream), Cues(api, 1, silence=0.0) as cues:
        _begin(cues, stream)
        _word(cues, stream)
        assert cues.given()
        assert cues.given()
        assert not cues.descriptors
        # And not begun anew at once.
        assert [cues.given() for _ in range(10)] == [True] * 10
        assert stream.opened == 1
