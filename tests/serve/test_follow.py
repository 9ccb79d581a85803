"""Following a log: every byte once, from the right place, until the attempt ends."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from itertools import count

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings, strategies as st

from ci.adapters.logs import LogHub, LogWriter
from ci.models import BuildState, Target
from ci.serve.follow import TICK
from ci.serve.stream import send
from ci.wake import Wake
from tests.fakes.waiting import wait_until
from tests.serve.conftest import Private, Served

LIMIT = 1 << 30
NEVER = 3600.0
NUMBERS = count(1)
WEB = Target(
    "checks.web",
    BuildState.RUNNING,
    derivation="/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web-1.0.drv",
)


async def read(client: Private, path: str) -> bytes:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        return await response.read()


async def test_every_follower_gets_every_byte_from_its_offset(
    served: Served, client: Private
) -> None:
    dice = random.Random(7)
    pieces = [dice.randbytes(dice.choice([1, 80, 5000, 70_000])) for _ in range(60)]
    build = await served.add(1, BuildState.RUNNING, log=b"")
    offsets = [0, 0, 1, len(pieces[0]), 5]
    followers: list[asyncio.Task[bytes]] = []
    with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
        written = 0
        for number, piece in enumerate(pieces):
            if number % 12 == 0:
                offset = min(offsets[number // 12], written)
                offsets[number // 12] = offset
                path = f"/builds/{build}/log?follow=1&offset={offset}"
                followers.append(asyncio.create_task(read(client, path)))
                await wait_until(lambda: served.following(client) == len(followers))
            writer.write(piece)
            written += len(piece)
            await asyncio.sleep(0)
    await served.finish(build)
    whole = b"".join(pieces)
    for offset, follower in zip(offsets, followers, strict=True):
        assert await follower == whole[offset:]
    assert served.following(client) == 0


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
@given(
    st.lists(st.tuples(st.binary(max_size=300), st.integers(0, 300)), max_size=6),
    st.binary(max_size=70_000),
)
async def test_who_comes_back_at_an_offset_misses_nothing(
    served: Served, client: Private, visits: list[tuple[bytes, int]], end: bytes
) -> None:
    """Each visit follows what was written and hangs up after so many bytes of it."""
    build = await served.add(next(NUMBERS), BuildState.RUNNING, log=b"")
    path = f"/builds/{build}/log?follow=1&offset="
    got = b""
    with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
        for piece, length in visits:
            async with client.get(path + str(len(got))) as response:
                assert response.headers["X-Log-Offset"] == str(len(got))
                writer.write(piece)
                there = writer.size - len(got)
                got += await response.content.readexactly(min(length, there))
        last = asyncio.create_task(read(client, path + str(len(got))))
        writer.write(end)
    await served.finish(build)
    assert got + await last == b"".join(piece for piece, _ in visits) + end


async def test_bytes_come_while_the_build_runs(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.RUNNING, log=b"before\n")
    async with client.get(f"/builds/{build}/log?follow=1") as response:
        assert response.headers["X-Build-State"] == "running"
        assert await response.content.readline() == b"before\n"
        with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
            for line in (b"during\n", b"still\n"):
                writer.write(line)
                assert await response.content.readline() == line
            writer.write(b"end")
        await served.finish(build)
        assert await response.content.read() == b"end"


async def test_following_what_has_ended_ends_at_once(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, log=b"all of it\n")
    assert await read(client, f"/builds/{build}/log?follow=1") == b"all of it\n"


async def test_follower_of_a_waiting_build_gets_the_attempt_to_come(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, log=b"first try\n")
    await served.retry(build)
    async with client.get(f"/builds/{build}/log?follow=1") as response:
        assert response.headers["X-Build-State"] == "queued"
        assert response.headers["X-Log-Attempt"] == "2"
        await served.begin(build)
        with LogWriter(served.log_path(build, 2), LIMIT, served.hub) as writer:
            writer.write(b"second try\n")
            assert await response.content.readline() == b"second try\n"
        await served.finish(build)
        assert await response.content.read() == b""


async def test_follower_of_a_cancelled_wait_goes_home(
    served: Served, client: Private
) -> None:
    build = await served.add(1)
    async with client.get(f"/builds/{build}/log?follow=1") as response:
        await served.cancel(build)
        assert await response.content.read() == b""


class Patient(Wake):
    """Who waits for this bell hears its rings, and nothing else brings him to look."""

    async def wait(self, seen: int, timeout: float) -> int:  # noqa: ASYNC109
        return await super().wait(seen, NEVER)


async def test_attempt_that_is_put_back_ends_its_followers(served: Served) -> None:
    served.wake, served.hub = Patient(), LogHub(look_again=NEVER)
    build = await served.add(1, BuildState.RUNNING, log=b"oh\n")
    async with (
        TestClient(TestServer(served.application())) as client,
        client.get(f"/builds/{build}/log?follow=1") as response,
    ):
        assert await response.content.readline() == b"oh\n"
        caught_up = time.monotonic() + 3 * TICK
        await wait_until(lambda: time.monotonic() > caught_up)
        await served.put_back(build)
        assert await response.content.read() == b""


async def test_last_lines_are_followed_too(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.RUNNING, log=b"1\n2\n3\n")
    async with client.get("/build/logs?lines=2&follow=1") as response:
        assert response.headers["X-Log-Offset"] == "2"
        assert await response.content.readline() == b"2\n"
        assert await response.content.readline() == b"3\n"
        with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
            writer.write(b"4\n")
        await served.finish(build)
        assert await response.content.read() == b"4\n"


async def test_one_targets_lines_are_followed_too(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.RUNNING, targets=(WEB,), log=b"")
    path = f"/builds/{build}/log?follow=1&target={WEB.name}"
    async with client.get(path) as response:
        with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
            writer.write(b"web-1.0> a\nlib> b\nweb-")
            assert await response.content.readline() == b"web-1.0> a\n"
            writer.write(b"1.0> c\n")
            assert await response.content.readline() == b"web-1.0> c\n"
        await served.finish(build)
        assert await response.content.read() == b""


async def test_reader_who_leaves_is_forgotten(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.RUNNING, log=b"x\n")
    async with client.get(f"/builds/{build}/log?follow=1") as response:
        assert await response.content.readline() == b"x\n"
        assert served.following(client) == 1
    await wait_until(lambda: served.following(client) == 0)


async def test_server_that_stops_does_not_wait_for_followers(served: Served) -> None:
    build = await served.add(1, BuildState.RUNNING, log=b"x\n")
    async with (
        TestClient(TestServer(served.application())) as client,
        client.get(f"/builds/{build}/log?follow=1") as response,
    ):
        assert await response.content.readline() == b"x\n"
        # Who is not cut off is waited for a minute.
        async with asyncio.timeout(30):
            await client.server.close()
        with pytest.raises(ClientPayloadError):
            await response.content.read()


async def test_reader_who_takes_nothing_is_cut_off(
    served: Served,
) -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 65536
        finally:
            ended.set()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await send(request, endless(), {}, patience=0.2)

    application = web.Application()
    application.router.add_get("/", handler)
    async with TestClient(TestServer(application)) as client:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(60):
            await ended.wait()
        writer.transport.abort()
