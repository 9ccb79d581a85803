"""A thousand people watch one build, and one of them has fallen asleep."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
import time
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any

import pytest

from ci.serve.stream import WRITE_SECONDS
from tests.end_to_end.server import Server, World
from tests.end_to_end.wire import (
    asked_meanwhile,
    connect,
    going_on,
    open_files,
    resident,
    silent_peer,
)
from tests.fakes.tree import CHECKOUT
from tests.fakes.waiting import wait_until

FOLLOWERS = 999
MIB = 1024 * 1024
# At first more than the kernel keeps for a reader who takes nothing; the others begin
# near its end.
AT_FIRST, BEGIN = 4_000_000, 3_900_000
PIECES, PIECE = 50, 10_000
WRITES = f"""#!/bin/sh
yes 'a line that everybody knows' | head -c {AT_FIRST}
until [ -e go ]; do sleep 0.05; done
i=0
while [ $i -lt {PIECES} ]; do
  i=$((i+1)); yes "line $i of a log" | head -c {PIECE}; echo; sleep 0.05
done
"""


async def watched(server: Server, number: int, count: int) -> tuple[list[str], float]:
    """What `count` readers of the build's log got, and when they let it go."""
    port = server.private.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.fakes.followers",
        port,
        f"/builds/{number}/log?follow=1&offset={BEGIN}",
        str(count),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    gone = await let_go(server.world, number)
    said, _ = await process.communicate()
    return said.decode().splitlines(), gone


async def let_go(world: World, number: int) -> float:
    """Let the build's command begin; when that was, in seconds since 1970."""
    found = await wait_until(lambda: list(world.state_dir.glob(f"**/{number}/**/ci")))
    gone = time.time()
    await asyncio.to_thread((found[0].parent / "go").touch)
    return gone


def took(build: dict[str, Any], gone: float) -> float:
    """Seconds from `gone` to the end of the build."""
    return datetime.fromisoformat(build["finished_at"]).timestamp() - gone


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_a_thousand_followers_of_whom_one_takes_nothing(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    async with world.server() as server, AsyncExitStack() as stack:
        pid = server.process.pid
        alone = await _begin(server, "alone")
        gone = await let_go(world, alone)
        first = await server.finished(alone)
        unwatched = took(first, gone)
        files, memory = open_files(pid), resident(pid)

        number = await _begin(server, "watched")
        follow = (
            f"GET /builds/{number}/log?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        asleep = stack.enter_context(await silent_peer(server.private, follow.encode()))
        async with asked_meanwhile(server.private + "/health") as waits:
            (told,), gone = await watched(server, number, FOLLOWERS)
        second = await server.finished(number)
        assert (first["state"], second["state"]) == ("succeeded", "succeeded")
        assert took(second, gone) < 2 * unwatched + 5
        assert sorted(waits)[len(waits) // 2] < 0.5

        log = await server.text(f"/builds/{number}/log")
        assert len(log) > AT_FIRST + PIECES * PIECE
        seen = log[BEGIN:]
        digest = hashlib.sha256(seen).hexdigest()
        assert told == f"{FOLLOWERS} {len(seen)} {digest}"

        def noticed() -> bool:
            return any("the reader stalled" in line for line in server.raw)

        await wait_until(noticed, 8 * WRITE_SECONDS, what="the end of the sleeper")
        asleep.close()
        await wait_until(lambda: open_files(pid) <= files + 8, what="the sockets")
        assert resident(pid) - memory < 200 * MIB


async def _begin(server: Server, title: str) -> int:
    """A build that has written its first part and waits to go on."""
    sha = await asyncio.to_thread(
        server.world.origin.commit, {"ci": WRITES, "title": title}, executable=["ci"]
    )
    answer = await server.push(sha)
    number: int = answer["builds"][-1]

    async def written() -> bool:
        async with server.session.head(f"{server.private}/builds/{number}/log") as log:
            return int(log.headers.get("X-Log-Size", 0)) >= AT_FIRST

    await wait_until(written, what="the first part of the log")
    return number


async def test_stopping_a_watched_build_takes_its_grace_and_little_more(
    command_world: World,
) -> None:
    """With fifty followers and half a request on both sides."""
    world = command_world
    world.build = {"sandbox": False}
    async with world.server() as server, AsyncExitStack() as stack:
        number = await _begin(server, "watched")
        readers = []
        for _ in range(50):
            reader, writer = await connect(server.private)
            stack.callback(writer.close)
            writer.write(f"GET /builds/{number}/log?follow=1 HTTP/1.1\r\n".encode())
            writer.write(b"Host: localhost\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            readers.append(reader)
        for url in (server.public, server.private) * 10:
            _, writer = await connect(url)
            stack.callback(writer.close)
            writer.write(b"POST /webhook HTTP/1.1\r\nHost: localhost\r\nX-")
        with going_on() as clock:
            begun = clock()
            server.process.send_signal(signal.SIGTERM)
            await wait_until(lambda: any("stopping" in line for line in server.raw))
            # The second signal ends the grace of the build.
            assert await server.stop() == 0
            assert clock() - begun < 8
        for reader in readers:
            assert b"0\r\n\r\n" not in await reader.read()
