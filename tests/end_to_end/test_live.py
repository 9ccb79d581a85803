"""What open pages are told of real builds, over restarts, and whoever else listens."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from itertools import groupby

import aiohttp

from ci.history import paths
from ci.serve.news import PATIENCE
from tests.client.conftest import bytecode, programs
from tests.client.programs import Programs, end_of, next_hint
from tests.end_to_end.server import Server, World
from tests.end_to_end.wire import asked_meanwhile, resident, silent_peer
from tests.fakes.event_stream import EventStream, Told, listening
from tests.fakes.ports import keep_port, port_of
from tests.fakes.waiting import wait_until

__all__ = ["bytecode", "programs"]

PAGES = 200
MIB = 1024 * 1024
# More than the kernel and the server together keep for a reader who takes nothing.
LOG = 3_000_000
GATED = f"""#!/bin/sh
echo begun
until [ -e go ]; do sleep 0.05; done
yes 'a line that everybody knows' | head -c {LOG}
"""


@asynccontextmanager
async def many() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as it:
        yield it


async def begin(server: Server, script: str = GATED, **more: str) -> int:
    """A build of a commit with this script; return its number."""
    files = {"ci": script, **more}
    sha = await asyncio.to_thread(server.world.origin.commit, files, executable=["ci"])
    number: int = (await server.push(sha))["builds"][-1]
    return number


async def begun(server: Server, number: int, attempt: int = 1) -> None:
    """Wait until the command of this attempt runs, and waits itself."""

    async def runs() -> bool:
        build = await server.build(number)
        if build["state"] != "running" or build["attempt"] != attempt:
            return False
        return b"begun" in await server.text(f"/builds/{number}/log?attempt={attempt}")

    await wait_until(runs, 60, what=f"attempt {attempt} of build {number}")


async def let_go(server: Server, number: int, attempt: int = 1) -> None:
    """Let the command go on. Earlier its checkout may not be whole, or another's."""
    await begun(server, number, attempt)
    checkout = paths.checkout_path(server.world.state_dir, number)
    await asyncio.to_thread((checkout / "go").touch)


async def goes_on(server: Server, number: int) -> float:
    """Let the command go on to its good end; return how many seconds that takes."""
    await let_go(server, number)
    begun = time.monotonic()
    assert (await server.finished(number))["state"] == "succeeded"
    return time.monotonic() - begun


def states(told: Sequence[Told], number: int) -> list[str]:
    """Each state of the build once, in the order in which they were told."""
    seen = [
        it.data["state"]
        for it in told
        if it.name == "build" and it.data["number"] == number
    ]
    return [state for state, _ in groupby(seen)]


def recorded(world: World, after: int) -> list[tuple[int, int, str, str]]:
    """The rows of the history itself: (id, build, kind, state)."""
    with closing(sqlite3.connect(paths.database_path(world.state_dir))) as connection:
        return connection.execute(
            "SELECT id, build, kind, state FROM events WHERE id > ? ORDER BY id",
            (after,),
        ).fetchall()


async def test_a_build_is_seen_from_the_queue_to_its_end_on_one_stream(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    async with (
        world.server() as server,
        listening(server.session, server.private + "/events") as stream,
    ):
        number = await begin(server)
        told = await stream.until("build", state="running")
        url = f"{server.private}/builds/{number}/events?log=1"
        async with listening(server.session, url) as page:
            await let_go(server, number)
            seen = await page.until("end")
        told += await stream.until("build", state="succeeded", kind="progress")
        assert states(told, number) == ["queued", "running", "succeeded"]
        assert states(seen, number)[-1] == "succeeded"
        assert seen[-1].data == {"state": "succeeded"}
        pieces = [it.data for it in seen if it.name == "log"]
        log = await server.text(f"/builds/{number}/log")
        assert pieces[0]["first"] == 1
        assert pieces[-1]["offset"] == len(log)
        lines = sum(piece["html"].count("a line that everybody") for piece in pieces)
        assert lines == log.count(b"a line that everybody")


async def test_who_was_there_before_a_kill_misses_nothing(command_world: World) -> None:
    world = command_world
    world.build = {"sandbox": False}
    async with world.server() as server:
        async with listening(server.session, server.private + "/events") as stream:
            number = await begin(server)
            await stream.until("build", state="running", kind="state")
            last = stream.last
        second = await begin(server, f"{GATED}true\n")
        await server.until_state(second, "running")
        await server.kill()
    async with world.server() as server:
        await server.until_state(number, "running")
        await server.until_state(second, "running")
        url = server.private + "/events"
        async with listening(server.session, url, last) as stream:
            rows = await asyncio.to_thread(recorded, world, int(last))
            told = [await stream.next() for _ in rows]
            assert [(int(it.id), it.data["number"]) for it in told] == [
                row[:2] for row in rows
            ]
            assert [it.change[::2] for it in told] == [row[2:] for row in rows]
            assert states(told, number) == ["running", "queued", "running"]
            assert states(told, second) == ["queued", "running", "queued", "running"]
        # Another history gave this one.
        async with listening(server.session, url, "999999") as stream:
            assert (await stream.next()).name == "reset"


async def test_two_hundred_pages_of_which_one_takes_nothing(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"sandbox": False}
    async with world.server() as server, many() as session, AsyncExitStack() as stack:
        alone = await begin(server)
        first = await goes_on(server, alone)
        pid = server.process.pid
        memory = resident(pid)

        number = await begin(server, n="2")
        await server.until_state(number, "running")
        path = f"/builds/{number}/events?log=1"
        ask = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        asleep = stack.enter_context(await silent_peer(server.private, ask.encode()))
        pages = await asyncio.gather(
            *(
                stack.enter_async_context(listening(session, server.private + where))
                for where in ["/events"] * (PAGES - 4) + [path] * 3
            )
        )
        reading = [asyncio.create_task(_to_end(page, number)) for page in pages]
        async with asked_meanwhile(server.private + "/health") as waits:
            second = await goes_on(server, number)
            seen = await asyncio.gather(*reading)
        # Who waited for the sleeper would do so until he is cut off.
        assert second < 2 * first + 0.8 * PATIENCE
        assert sorted(waits)[len(waits) // 2] < 0.5
        for told in seen:
            assert states(told, number)[-1] == "succeeded"
            assert "reset" not in [it.name for it in told]
        assert resident(pid) - memory < 100 * MIB

        def noticed() -> bool:
            return any("cut off" in line for line in server.raw)

        await wait_until(noticed, 90, what="the end of the sleeper")
        asleep.close()
        await stack.aclose()

        async def nobody() -> bool:
            return b"build_server_event_streams 0.0" in await server.text("/metrics")

        await wait_until(nobody, 60, what="the end of all streams")


async def _to_end(page: EventStream, number: int) -> list[Told]:
    return await page.until("build", number=number, state="succeeded", kind="progress")


async def test_stopping_says_good_bye_to_open_pages(command_world: World) -> None:
    """And waits for none of them: it would do so for two minutes here."""
    async with (
        command_world.server(STOP_WAITS="120") as server,
        many() as session,
        AsyncExitStack() as stack,
    ):
        pages = [
            await stack.enter_async_context(
                listening(session, server.private + "/events")
            )
            for _ in range(50)
        ]
        assert await server.stop(signal.SIGTERM) == 0
        for page in pages:
            assert [it.name for it in await page.to_the_end()] == ["bye"]


async def test_who_waits_in_a_terminal_outlives_a_kill(
    command_world: World, programs: Programs
) -> None:
    """`bs -w` hears of the end on the stream of another server than it began with."""
    with keep_port() as kept:
        command_world.private = f"127.0.0.1:{port_of(kept)}"
        await _wait_through_a_kill(command_world, programs)


async def _wait_through_a_kill(world: World, programs: Programs) -> None:
    world.build = {"sandbox": False}

    async def heard() -> bool:
        return b"build_server_event_streams 1.0" in await server.text("/metrics")

    async with world.server() as server:
        number = await begin(server)
        await begun(server, number)
        process = await programs.start("bs", "-w", "--server", server.private)
        assert "running" in await next_hint(process)
        await wait_until(heard, 60, what="a client that listens")
        await server.kill()
        assert "trying again for 60 s" in await next_hint(process)
    async with world.server() as server:
        assert "is back after" in await next_hint(process)
        await wait_until(heard, 60, what="a client that listens again")
        await let_go(server, number, attempt=2)
        ran = await end_of(process)
        told = await server.build(number)
    assert (ran.code, told["state"], told["attempt"]) == (0, "succeeded", 2)
    assert ran.out.splitlines()[-1].startswith(f"{number}\tsucceeded\tdev\t")
