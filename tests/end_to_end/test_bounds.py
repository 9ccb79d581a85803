"""Nothing grows without bound: many pushes, small limits, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, World
from tests.fakes import tree
from tests.fakes.waiting import wait_until

BUILDS = 100
LOGS = 40_000
LIMITS = f"""
[retention]
builds = {BUILDS}
logs_size = {LOGS}
"""
ROUND = 20
ROUNDS = 5
CI = "#!/bin/sh\nhead -c 2000 /dev/zero | tr '\\0' x; test ! -e broken\n"


def commits(world: World, count: int, branch: str, **more: str) -> list[str]:
    return [
        world.origin.commit(
            {"ci": CI, "number": str(number), **more},
            branch=branch,
            executable=["ci"],
        )
        for number in range(count)
    ]


def hasty(world: World) -> None:
    world.program = ("-m", "tests.end_to_end.hasty")
    world.environ = {**world.environ, "PYTHONPATH": str(tree.CHECKOUT)}
    world.repository["branches"] = ["dev", "main"]
    world.extra = LIMITS


async def end_of(server: Server, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Wait until all of them have ended; one may have gone again by then."""
    ended = []
    for number in sorted(numbers, reverse=True):
        async with server.session.get(f"{server.private}/builds/{number}.json") as got:
            if got.status == 404:
                continue
        ended.append(await server.finished(number))
    return ended


def rows(world: World, query: str) -> list[Any]:
    path = world.state_dir / "history.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute(query)]


def log_files(world: World) -> dict[int, int]:
    """Build number to the bytes of its logs, some of which may go while we look."""
    found: dict[int, int] = {}
    for folder, _, names in os.walk(world.state_dir / "logs"):
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):
                number = int(path.parent.name)
                found[number] = found.get(number, 0) + path.stat().st_size
    return found


async def status_of(server: Server, path: str) -> tuple[int, str]:
    async with server.session.get(server.private + path) as got:
        return got.status, await got.text()


@pytest.mark.faults
async def test_many_pushes_and_small_limits(command_world: World) -> None:
    world = command_world
    hasty(world)
    first = await asyncio.to_thread(commits, world, 2, "dev")
    main = await asyncio.to_thread(commits, world, 3, "main", main="1")
    pinned, last_of_main = 2, 5
    async with world.server() as server:
        await end_of(server, (await server.push(first))["builds"])
        await end_of(server, (await server.push(main, branch="main"))["builds"])
        status, _ = await server.post(f"/builds/{pinned}/pin")
        assert status == 200
        numbers: list[int] = []
        for number in range(ROUNDS):
            broken = {"broken": str(number)} if number == ROUNDS - 1 else {}
            made = await asyncio.to_thread(commits, world, ROUND, "dev", **broken)
            numbers = (await server.push(made))["builds"]
            await end_of(server, numbers)
        green, newest = numbers[0] - 1, numbers[-1]

        def settled() -> bool:
            count = rows(world, "SELECT count(*) FROM builds")[0]
            unsent = "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND dead = 0"
            few = sum(log_files(world).values()) <= LOGS
            return count <= BUILDS and few and not rows(world, unsent)[0]

        await wait_until(settled, what="everything within its limits")
        for number in (pinned, last_of_main, green, newest):
            build = await server.build(number)
            assert build["pinned"] is (number == pinned)
            assert (await status_of(server, f"/builds/{number}/log"))[0] == 200
        assert (await server.build(green))["state"] == "succeeded"
        assert (await server.build(newest))["state"] == "failed"
        assert (await status_of(server, "/builds/1"))[0] == 404
        oldest = sorted(rows(world, "SELECT number FROM builds"))[2]
        status, said = await status_of(server, f"/builds/{oldest}/log")
        assert status == 410
        assert "all logs took more than retention.logs_size (39.1 KiB)" in said
        checks = (await server.get("/health"))["checks"]
        assert [check for check in checks if not check["ok"]] == []

        async def agreed() -> bool:
            told = measured(await server.text("/metrics"))
            return told == sum(log_files(world).values())

        await wait_until(agreed, what="Prometheus to be told what the logs take")
        assert await server.stop() == 0

    nothing_is_left_over(world)
    async with world.server() as server:
        (sha,) = await asyncio.to_thread(commits, world, 1, "dev")
        (number,) = (await server.push(sha))["builds"]
        assert number > newest
        assert (await server.finished(number))["state"] == "failed"


def measured(metrics: bytes) -> float:
    """What the logs take, as Prometheus is told."""
    name = b"build_server_log_bytes "
    (line,) = (line for line in metrics.splitlines() if line.startswith(name))
    return float(line.removeprefix(name))


def nothing_is_left_over(world: World) -> None:
    """Rows, files and refs of what has gone have gone."""
    left = set(rows(world, "SELECT number FROM builds"))
    assert rows(world, "PRAGMA foreign_key_check") == []
    assert rows(world, "PRAGMA integrity_check") == ["ok"]
    counted = rows(world, "SELECT sum(n) FROM build_counts")
    assert counted == [len(left)] == rows(world, "SELECT count(*) FROM builds")
    assert rows(world, "SELECT number FROM removed_builds") == []
    assert set(log_files(world)) <= left
    assert list((world.state_dir / "checkouts").iterdir()) == []
    assert len(refs(world.state_dir / "mirrors/1.git")) < 20 + ROUND


def refs(mirror: Path) -> list[str]:
    """The builds that the mirror keeps commits for."""
    packed = mirror / "packed-refs"
    lines = packed.read_text().splitlines() if packed.exists() else []
    found = [line.split()[1] for line in lines if line[0] not in "#^"]
    loose = (mirror / "refs/build-server/build").glob("*")
    names = [Path(ref).name for ref in found if "/build/" in ref]
    return sorted({*names, *(path.name for path in loose)})
