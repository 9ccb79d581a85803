"""Loops that fail are started again, and say so; a foreign lock is waited for."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.history.paths import database_path
from ci.history.states import DEATHS
from ci.intake import ledger
from tests.end_to_end.server import Server, World
from tests.fakes.invariants import check
from tests.fakes.waiting import PATIENCE, wait_until
from tests.faults.worlds import (
    gate,
    mortal_world,
    open_gate,
    push_of,
    script,
    serve_once,
)

# Seconds.
GITHUB_WAITS = 10.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with mortal_world(tmp_path / "world") as made:
        yield made


async def _check_of(server: Server, name: str) -> dict[str, object]:
    health = await server.get("/health")
    found = [check for check in health["checks"] if check["name"] == name]
    assert found, health
    return dict(found[0])


@pytest.mark.parametrize(
    ("transactions", "loop"),
    [
        ("ci.history.queue.claim", "scheduler"),
        pytest.param("ci.report.outbox.", "outbox", marks=pytest.mark.faults),
        pytest.param(
            "ci.history.requests.answer", "requests", marks=pytest.mark.faults
        ),
    ],
)
async def test_a_loop_that_fails_is_red_and_then_works_again(
    world: World, transactions: str, loop: str
) -> None:
    broken = world.folder / "broken"
    world.build |= {"parallel": 2}
    busy = world.origin.commit(
        script(gate(world.folder, "busy-may-end")), executable=["ci"]
    )
    async with world.server(BREAK=transactions, BREAK_WHILE=str(broken)) as server:
        await server.push(busy)
        await wait_until((world.folder / "busy-may-end.reached").exists)
        broken.touch()
        next_one = world.origin.commit(script("echo ok"), executable=["ci"])
        await server.push(next_one, before=busy)
        asked = asyncio.create_task(server.post("/build/trigger", {"ref": "nowhere"}))

        async def red() -> bool:
            return loop in str((await _check_of(server, "loops"))["detail"])

        await wait_until(red, what=f"{loop} to be red")
        broken.unlink()

        async def green() -> bool:
            return bool((await _check_of(server, "loops"))["ok"])

        await wait_until(green, what=f"{loop} to be green")
        assert (await asked)[0] in (202, 404)
        # What ran when the loop failed was left alone.
        open_gate(world.folder, "busy-may-end")
        for number in (1, 2):
            build = await server.finished(number)
            assert (build["state"], build["attempt"]) == ("succeeded", 1), build
        await check(world, server, world.github)


async def _lateness(seconds: float) -> float:
    """By how much this machine, at this moment, is late after so many seconds."""
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    return time.monotonic() - begun - seconds


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Another program in the middle of a transaction that nobody may write beside."""
    foreign = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    try:
        foreign.execute("BEGIN EXCLUSIVE")
        yield
        foreign.execute("ROLLBACK")
    finally:
        foreign.close()


@pytest.mark.faults
async def test_a_lock_of_another_program_delays_and_loses_nothing(world: World) -> None:
    world.build |= {"parallel": 2}
    busy = world.origin.commit(
        script(gate(world.folder, "busy-may-end")), executable=["ci"]
    )
    sha = world.origin.commit(script("echo ok"), executable=["ci"])
    body = push_of(sha, before=busy)
    async with world.server() as server:
        await server.push(busy)
        await wait_until((world.folder / "busy-may-end.reached").exists)
        with _held(database_path(world.state_dir)):
            begun = time.monotonic()
            late = asyncio.create_task(_lateness(ledger.PATIENCE))
            status, answer = await server.deliver(body, guid="refused")
            took = time.monotonic() - begun
            assert (status, took < GITHUB_WAITS + await late) == (503, True), took
            assert "deliver it again later" in answer["error"]
            assert not (await _check_of(server, "history"))["ok"]
        status, answer = await server.deliver(body, guid="refused")
        assert (status, answer["builds"]) == (202, [2])
        open_gate(world.folder, "busy-may-end")
        for number in (1, 2):
            build = await server.finished(number)
            assert (build["state"], build["attempt"]) == ("succeeded", 1), build
        await check(world, server, world.github)

        async def healthy() -> bool:
            found = [await _check_of(server, name) for name in ("history", "loops")]
            return all(check["ok"] for check in found)

        await wait_until(healthy, what="health to be green again")


@pytest.mark.faults
async def test_a_build_that_kills_the_server_each_time_ends_and_the_next_one_runs(
    world: World,
) -> None:
    poison = world.origin.commit(script("echo poison"), executable=["ci"])
    good = world.origin.commit(script("echo ok"), executable=["ci"])
    world.build |= {"parallel": 1}
    killed = {"CRASH_AT": "ci.build.record.finish:begun"}
    async with world.server(**killed) as server:
        await server.push(poison)
        assert await server.process.wait() != 0
    for _ in range(DEATHS - 1):
        # It builds before it listens: whether it says that it is ready is chance.
        code, _ = await serve_once(world, **killed)
        assert code == -signal.SIGKILL
    async with world.server() as server:
        build = await server.build(1)
        assert (build["state"], build["attempt"]) == ("error", DEATHS)
        assert f"died {DEATHS} times" in build["summary"]
        await server.push(good, before=poison)
        assert (await server.finished(2))["state"] == "succeeded"
        await check(world, server, world.github)
