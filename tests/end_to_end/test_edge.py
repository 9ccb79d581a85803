"""The edge under fire: what is no good HTTP, what never ends, and what is too much."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from ci.intake.webhook import BOUNDS
from tests.end_to_end.server import Server, World
from tests.end_to_end.wire import (
    Streams,
    asked_meanwhile,
    connect,
    exchange,
    going_on,
    open_files,
    resident,
    silent_peer,
)
from tests.fakes.push import encode, headers, make_push, sha
from tests.fakes.waiting import wait_until

MIB = 1024 * 1024
LIMIT = 25 * MIB
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
BOMB = gzip.compress(b"[" * 50_000_000)
ENCODINGS = ("gzip", "deflate", "br", "zstd", "identity", "gzip, gzip")


def get(target: bytes, *lines: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    head = b"GET " + target + b" " + version + b"\r\n" + HOST + CLOSE
    return head + b"".join(lines) + b"\r\n"


def post(target: bytes, *lines: bytes, body: bytes = b"") -> bytes:
    framing = b"".join(lines).lower()
    if b"content-length" not in framing and b"transfer-encoding" not in framing:
        lines = (*lines, b"Content-Length: %d\r\n" % len(body))
    head = b"POST " + target + b" HTTP/1.1\r\n" + HOST + CLOSE
    return head + b"".join(lines) + b"\r\n" + body


def trigger(*lines: bytes, body: bytes = b"{}") -> bytes:
    return post(b"/build/trigger", *lines, body=body)


def signed(body: bytes, *lines: bytes) -> bytes:
    given = [f"{name}: {value}\r\n".encode() for name, value in headers(body).items()]
    return post(b"/webhook", *given, *lines, body=body)


# What is sent -> the status of each side: the internet's, the tailnet's.
REQUESTS: dict[str, tuple[bytes, int, int]] = {
    "garbage": (b"\x00\x01\x02\xff\r\n\r\n", 400, 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400, 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 400),
    "HTTP/0.9": (b"GET /health\r\n\r\n", 505, 505),
    "HTTP/2.0": (get(b"/health", version=b"HTTP/2.0"), 505, 505),
    "HTTP/9.9": (get(b"/health", version=b"HTTP/9.9"), 400, 400),
    "HTTP/1.0": (get(b"/health", version=b"HTTP/1.0"), 404, 200),
    "HTTP/1.0 without Host": (b"GET /health HTTP/1.0\r\n\r\n", 404, 421),
    "no Host": (b"GET /health HTTP/1.1\r\n" + CLOSE + b"\r\n", 400, 400),
    "two Hosts": (get(b"/health", HOST), 400, 400),
    "several Hosts in one": (
        b"GET /health HTTP/1.0\r\nHost: localhost, x\r\n\r\n",
        404,
        421,
    ),
    "OPTIONS *": (get(b"*").replace(b"GET", b"OPTIONS"), 404, 404),
    "GET *": (get(b"*"), 400, 400),
    "absolute form": (get(b"http://localhost/health"), 404, 200),
    "absolute form, other host": (get(b"http://evil.example/health"), 404, 421),
    "absolute form, other scheme": (get(b"file:///etc/passwd"), 400, 400),
    "CONNECT": (get(b"example.org:443").replace(b"GET", b"CONNECT"), 404, 421),
    "TRACE": (get(b"/health").replace(b"GET", b"TRACE"), 404, 405),
    "lower case": (get(b"/health").replace(b"GET", b"get"), 400, 400),
    "websocket": (
        get(b"/health", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        404,
        200,
    ),
    "h2c": (
        get(
            b"/health", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
        ),
        404,
        200,
    ),
    "two lengths": (trigger(b"Content-Length: 2\r\n", CHUNKED), 400, 400),
    "two Content-Lengths": (trigger(*[b"Content-Length: 2\r\n"] * 2), 400, 400),
    "signed length": (trigger(b"Content-Length: +2\r\n"), 400, 400),
    "negative length": (trigger(b"Content-Length: -2\r\n"), 400, 400),
    "enormous length": (trigger(b"Content-Length: " + b"9" * 40 + b"\r\n"), 400, 400),
    "chunked twice": (trigger(CHUNKED, CHUNKED, body=LAST_CHUNK), 400, 400),
    "unknown framing": (trigger(b"Transfer-Encoding: x\r\n"), 400, 400),
    "chunked in HTTP/1.0": (
        trigger(CHUNKED, body=LAST_CHUNK).replace(b"HTTP/1.1", b"HTTP/1.0"),
        400,
        400,
    ),
    "broken chunk": (trigger(CHUNKED, body=b"zz\r\n"), 400, 400),
    "enormous chunk": (trigger(CHUNKED, body=b"f" * 17 + b"\r\n"), 400, 400),
    "chunk extension": (
        trigger(CHUNKED, body=b"2;a=b\r\n[]\r\n" + LAST_CHUNK),
        404,
        400,
    ),
    "long chunk extension": (
        trigger(CHUNKED, body=b"2;" + b"a" * MIB + b"\r\n[]\r\n" + LAST_CHUNK),
        404,
        400,
    ),
    "line feed in an extension": (
        trigger(CHUNKED, body=b"2;\nxx\r\n[]\r\n" + LAST_CHUNK),
        400,
        400,
    ),
    "trailers": (trigger(CHUNKED, body=b"2\r\n[]\r\n0\r\nHost: x\r\n\r\n"), 404, 400),
    "many trailers": (
        trigger(CHUNKED, body=b"2\r\n[]\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"),
        400,
        400,
    ),
    "folded header": (get(b"/health", b"X: a\r\n b\r\n"), 400, 400),
    "NUL in a header": (get(b"/health", b"X: a\x00b\r\n"), 400, 400),
    "CR in a header": (get(b"/health", b"X: a\rb\r\n"), 400, 400),
    "space before the colon": (get(b"/health", b"X : a\r\n"), 400, 400),
    "line feeds alone": (get(b"/health").replace(b"\r\n", b"\n"), 400, 400),
    "NUL in the path": (get(b"/he\x00alth"), 400, 400),
    "bytes in the path": (get(b"/\xff\xfe"), 400, 400),
    "encoded NUL": (get(b"/builds/%00"), 404, 404),
    "bad encoding": (get(b"/builds/%zz%ff"), 404, 404),
    "dots": (get(b"/../../etc/passwd"), 404, 404),
    "two slashes": (get(b"//evil.example/health"), 404, 404),
    "long line": (get(b"/" + b"a" * MIB), 400, 400),
    "long header": (get(b"/health", b"X: " + b"a" * MIB + b"\r\n"), 400, 400),
    "many headers": (get(b"/health", b"X: y\r\n" * 10_000), 400, 400),
    "ranges": (get(b"/health", b"Range: bytes=0-0,0-1,2-,-5\r\n"), 404, 200),
    "HEAD": (get(b"/health").replace(b"GET", b"HEAD"), 404, 200),
    "GET with a body": (get(b"/health", b"Content-Length: 3\r\n") + b"abc", 404, 200),
    "Expect: 100-continue": (
        trigger(b"Expect: 100-continue\r\n", body=b"[]"),
        404,
        400,
    ),
    "Expect: something": (trigger(b"Expect: 200-ok\r\n"), 404, 417),
    "a request as a body": (post(b"/nothing", body=get(b"/metrics")), 404, 404),
    "form": (
        post(b"/webhook", b"Content-Type: text/plain\r\n", body=b"payload={}"),
        401,
        404,
    ),
    **{
        f"{encoding} bomb": (
            signed(BOMB, b"Content-Encoding: %s\r\n" % encoding.encode()),
            415,
            415,
        )
        for encoding in ENCODINGS
    },
}


@pytest.fixture
async def server(command_world: World) -> AsyncIterator[Server]:
    """A server that records and builds nothing."""
    command_world.build = {"parallel": 0}
    async with command_world.server() as running:
        yield running


async def settled(server: Server, files: int) -> None:
    """Wait until the server has about as many open files as before.

    A few more may be its connection to GitHub, or one of the database's.
    """

    def few() -> bool:
        return open_files(server.process.pid) <= files + 8

    await wait_until(few, what="the sockets' end")


async def test_every_odd_request_has_its_answer_and_costs_nobody_anything(
    server: Server,
) -> None:
    pid = server.process.pid
    files, memory = open_files(pid), resident(pid)
    async with asked_meanwhile(server.private + "/health") as waits:
        for name, (data, public, private) in REQUESTS.items():
            for url, status in ((server.public, public), (server.private, private)):
                # In one piece, and so that the parser sees it in two.
                for pieces in ((data,), (data[:9], data[9:])):
                    reply = await exchange(url, *pieces)
                    assert reply.statuses == [status], (name, url, reply)
                    assert b"Server: build-server\r\n" in reply.data, name
                    assert b"aiohttp" not in reply.data, name
                    if status >= 400 and name != "HEAD":
                        assert json.loads(reply.body)["status"] == status, name
    assert len(waits) > 10
    assert max(waits) < 3
    assert resident(pid) - memory < 40 * MIB
    assert (await server.push(sha("one")))["builds"] == [1]
    await settled(server, files)
    assert [line for line in server.lines if line["level"] == "error"] == []
    assert (await server.get("/builds"))["builds"][0]["number"] == 1


async def test_a_thousand_requests_at_once_whose_answers_nobody_reads(
    server: Server,
) -> None:
    pid = server.process.pid
    memory = resident(pid)
    public = b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" * 1000
    private = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000
    async with (
        AsyncExitStack() as stack,
        asked_meanwhile(server.private + "/health") as waits,
    ):
        clock = stack.enter_context(going_on())
        for url, data in ((server.public, public), (server.private, private)) * 4:
            stack.enter_context(await silent_peer(url, data))
        begun = clock()
        assert (await server.push(sha("one")))["accepted"] is True
        assert clock() - begun < 5
        enough = len(waits) + 20
        await wait_until(lambda: len(waits) > enough, what="the others' answers")
    assert max(waits) < 3
    assert resident(pid) - memory < 64 * MIB


async def test_a_large_push_and_endless_ones_leave_the_others_alone(
    server: Server,
) -> None:
    pid = server.process.pid
    memory = resident(pid)
    text = encode(make_push(1))
    good = text[:-1] + b',"pad":"' + b"x" * (LIMIT - len(text) - 9) + b'"}'
    assert len(good) == LIMIT
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    endless = signed(b"", CHUNKED)[: -len(b"\r\n")] + b"\r\n"
    lying = signed(text, b"Content-Length: %d\r\n" % (LIMIT + 1))
    short = signed(text, b"Content-Length: %d\r\n" % (len(text) - 1))
    async with asked_meanwhile(server.private + "/health") as waits:
        reply = await exchange(server.public, signed(good))
        assert reply.statuses == [202], reply
        cut, long, rest = await asyncio.gather(
            exchange(server.public, endless, *[piece] * 500),
            exchange(server.public, lying),
            # Its last byte is another request, and not a good one.
            exchange(server.public, short),
        )
        # What was still on its way can make a reset of the answer.
        assert cut.statuses in ([413], [])
        assert (long.statuses, rest.statuses) == ([413], [400])
    assert len(waits) > 5
    assert max(waits) < 3
    assert sorted(waits)[len(waits) * 9 // 10] < 0.2
    assert resident(pid) - memory < 4 * LIMIT
    assert len((await server.get("/builds"))["builds"]) == 1


LORIS = (
    b"",
    b"P",
    b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nX-Hub",
    signed(encode(make_push(1)))[:-10],
)


async def hold(server: Server, count: int, stack: AsyncExitStack) -> list[Streams]:
    """Half-open requests of every kind, on both sides in turn."""
    held = []
    for number in range(count):
        url = (server.public, server.private)[number % 2]
        reader, writer = await connect(url)
        stack.callback(writer.close)
        writer.write(LORIS[number // 2 % len(LORIS)])
        held.append((reader, writer))
    return held


async def test_half_open_requests_do_not_keep_a_push_waiting(server: Server) -> None:
    files = open_files(server.process.pid)
    async with AsyncExitStack() as stack:
        await hold(server, 700, stack)

        async def all_taken() -> bool:
            metrics = (await server.text("/metrics")).decode()
            public, private = (
                float(re.findall(rf"^build_server_{side} (.*)", metrics, re.M)[0])
                for side in ("public_connections", "private_connections")
            )
            # On the private side every fourth is answered at once: it has no webhook.
            return public == BOUNDS.connections and private >= 350 * 3 // 4

        await wait_until(all_taken, what="as many connections as there may be")
        clock = stack.enter_context(going_on())
        for number in range(5):
            begun = clock()
            assert (await server.push(sha(number)))["accepted"] is True
            assert clock() - begun < 3
    await settled(server, files)


async def test_a_flood_leaves_files_for_the_work(command_world: World) -> None:
    """With 128 files for everything: sockets, the database, logs, a build's pipes."""
    world = command_world
    world.wrapper = ("prlimit", "--nofile=128")
    commit = await asyncio.to_thread(
        world.origin.commit, {"ci": "#!/bin/sh\necho fine\n"}, executable=["ci"]
    )
    async with world.server() as server, AsyncExitStack() as stack:
        await hold(server, 200, stack)
        assert (await server.push(commit))["builds"] == [1]
        assert (await server.finished(1))["state"] == "succeeded"
        assert not any("Too many open files" in line for line in server.raw)


@pytest.mark.faults
async def test_every_half_open_request_is_closed_in_bounded_time(
    server: Server,
) -> None:
    files = open_files(server.process.pid)
    async with AsyncExitStack() as stack:
        held = await hold(server, 500, stack)
        drip, slow = await connect(server.private)
        stack.callback(slow.close)
        slow.write(b"GET /health HTTP/1.1\r\n")
        clock = stack.enter_context(going_on())
        begun = clock()

        async def closed(reader: asyncio.StreamReader) -> float:
            try:
                while await reader.read(65536):
                    pass
            except ConnectionError:
                pass
            return clock() - begun

        async with asyncio.timeout(200):
            waits = [asyncio.create_task(closed(reader)) for reader, _ in held]
            last = asyncio.create_task(closed(drip))
            while not last.done():
                slow.write(b"X: y\r\n")
                await asyncio.wait([last], timeout=1)
            assert await last < 15
            assert max(await asyncio.gather(*waits)) < 30
    await settled(server, files)


async def test_stopping_waits_for_nobody_who_dawdles(server: Server) -> None:
    await server.push(sha("one"))
    async with AsyncExitStack() as stack:
        await hold(server, 40, stack)
        readers = []
        for _ in range(50):
            reader, writer = await connect(server.private)
            stack.callback(writer.close)
            writer.write(b"GET /builds/1/log?follow=1 HTTP/1.1\r\n" + HOST + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
            readers.append(reader)
        with going_on() as clock:
            begun = clock()
            assert await server.stop(signal.SIGTERM) == 0
            assert clock() - begun < 5
        for reader in readers:
            # Without the end mark: the log goes on when the server is back.
            assert b"0\r\n\r\n" not in await reader.read()
