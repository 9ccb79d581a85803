"""The state directory on a disk that is really full: what is promised, and the way back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ci.upkeep.ballast import Ballast
from tests.end_to_end.server import Server, World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.push import GITHUB_ID, encode, make_commit, make_push
from tests.fakes.repository import Origin
from tests.fakes.small_disk import SmallDisk, small_disk
from tests.fakes.waiting import wait_until

REPO = "octo-org/hello"
LIMITS = """
[disk]
state_low = "4MiB"
ballast = "3MiB"
"""
SMALL = "echo built"
LOUD = "yes 'a line of a long log' | head -c 1600000"
# Waits to be let go, then needs 8 MiB for a moment.
GREEDY = (
    "until [ -e go ]; do sleep 0.05; done; "
    "dd if=/dev/zero of=big bs=64k count=128 2>&1 && rm big && echo done"
)


def script(world: World, body: str, number: int = 0) -> str:
    text = f"#!/bin/sh\n# {number}\n{body}\n"
    return world.origin.commit({"ci": text}, executable=["ci"])


@contextlib.asynccontextmanager
async def on_small_disk(world: World, options: str) -> AsyncIterator[SmallDisk]:
    world.extra = LIMITS
    async with small_disk(world.state_dir, options) as small:
        world.wrapper = small.wrapper
        # As an earlier server left it; later ones make it again themselves.
        await asyncio.to_thread(Ballast(small.inside / "ballast", 3 * 1024**2).make)
        yield small


async def try_push(server: Server, sha: str) -> bool:
    """Deliver a push; whether it was accepted. Anything but 202 and 503 is a failure."""
    payload = make_push(
        [make_commit(sha)], created=True, repo=REPO, github_id=GITHUB_ID
    )
    status, answer = await server.deliver(encode(payload))
    assert status in (202, 503), answer
    return status == 202


async def disk_check(server: Server) -> dict[str, Any]:
    checks = (await server.get("/health"))["checks"]
    return next(check for check in checks if check["name"] == "disk")


def said(server: Server, words: str) -> Callable[[], bool]:
    return lambda: any(words in line for line in server.raw)


async def until_well(server: Server) -> None:
    async def well() -> bool:
        return bool((await disk_check(server))["ok"])

    await wait_until(well, what="enough room")


async def until_low(server: Server) -> dict[str, Any]:
    """Wait until health says that there is too little room; how it says so."""

    async def low() -> dict[str, Any] | None:
        check = await disk_check(server)
        return None if check["ok"] else check

    found: dict[str, Any] | None = await wait_until(low, what="the word of the disk")
    assert found is not None
    return found


async def removed_logs(server: Server, builds: int) -> list[str]:
    """What is said of the logs that are not there, of builds 1 to `builds`."""
    reasons = []
    for number in range(1, builds + 1):
        async with server.session.get(f"{server.private}/builds/{number}/log") as got:
            if got.status == 410:
                reasons.append((await got.json())["error"])
    return reasons


async def all_green(server: Server, shas: list[str]) -> None:
    """Everything that was acknowledged is built, and GitHub shows it."""
    for sha in shas:
        builds = (await server.get(f"/commits/{sha}"))["builds"]
        build = await server.finished(builds[0]["number"])
        assert build["state"] == "succeeded", build
    for sha in shas:
        await server.world.github.wait_for(sha, "success")
    states = {status.state for status in server.world.github.taken}
    assert states <= {"pending", "success"}, "nothing was called failed"


async def push_while_full(
    server: Server, small: SmallDisk, shas: list[str], keep_full: int
) -> list[str]:
    """Push each commit; `keep_full` times the room that was given up is taken, too."""
    accepted = []
    for number, sha in enumerate(shas):
        if number < keep_full:
            await asyncio.to_thread(small.fill)
        if await try_push(server, sha):
            accepted.append(sha)
    return accepted


@pytest.mark.faults
async def test_full_to_the_last_byte_until_somebody_makes_room(
    command_world: World,
) -> None:
    world = command_world
    greedy = script(world, GREEDY)
    shas = [script(world, SMALL, number) for number in range(20)]
    async with on_small_disk(world, "size=24m") as small, world.server() as server:
        ballast = small.inside / "ballast"
        assert small.free < 24 * 1024**2 - 3 * 1024**2
        assert await try_push(server, greedy)
        checkout = small.inside / "checkouts/1"
        await wait_until((checkout / "ci").exists, what="the running command")

        await asyncio.to_thread(small.fill)
        (checkout / "go").touch()
        accepted = await push_while_full(server, small, shas, keep_full=14)
        refused = len(shas) - len(accepted)
        assert refused, "a disk without a byte left refuses"
        await wait_until(lambda: not ballast.exists(), what="the ballast given up")
        check = await until_low(server)
        assert "free in" in check["detail"]
        assert check["fix"]
        assert server.process.returncode is None
        # The command has found the disk full; that cannot even be written down now.
        await wait_until(lambda: not checkout.exists(), what="the command's end")

        await asyncio.to_thread(small.remove, "filler")
        await until_well(server)
        assert await try_push(server, shas[-1])
        # Its next attempt has room.
        await wait_until((checkout / "ci").exists, what="the command again")
        (checkout / "go").touch()
        await all_green(server, [greedy, *accepted, shas[-1]])
        assert (await server.build(1))["attempt"] > 1
        await wait_until(ballast.exists, what="the ballast again")


@pytest.mark.faults
async def test_logs_of_our_own_make_way_when_nobody_does(command_world: World) -> None:
    world = command_world
    loud = [script(world, LOUD, number) for number in range(8)]
    later = [script(world, SMALL, number) for number in range(100, 104)]
    async with on_small_disk(world, "size=28m") as small, world.server() as server:
        for sha in loud:
            assert await try_push(server, sha)
        for number in range(1, 9):
            await server.finished(number)
        await asyncio.to_thread(small.fill)
        accepted = await push_while_full(server, small, later, keep_full=2)
        # Nobody removes the filler: the room comes from old logs.
        await until_well(server)
        assert (small.inside / "filler").stat().st_size > 1024**2
        if later[-1] not in accepted:
            assert await try_push(server, later[-1])
            accepted.append(later[-1])
        await all_green(server, [*loud, *accepted])
        reasons = await removed_logs(server, len(loud))
        assert reasons
        assert all("because the disk was full" in reason for reason in reasons)
        newest = await server.get("/build/status")
        assert await server.text(f"/builds/{newest['last']['number']}/log")
        await wait_until((small.inside / "ballast").exists, what="the ballast again")


@pytest.mark.faults
async def test_a_server_starts_on_a_full_disk(command_world: World) -> None:
    world = command_world
    shas = [script(world, SMALL, number) for number in range(3)]
    async with on_small_disk(world, "size=24m") as small:
        async with world.server() as server:
            assert await try_push(server, shas[0])
            await server.finished(1)
            await server.kill()
        await asyncio.to_thread(small.fill)
        async with world.server() as server:
            assert said(server, "the ballast is given up")()
            # There is room to record, and none to build.
            assert await try_push(server, shas[1])
            await wait_until(said(server, "only"), what="the word of the disk")
            assert (await server.build(2))["state"] == "queued"
            await asyncio.to_thread(small.remove, "filler")
            await all_green(server, shas[:2])


@pytest.mark.faults
async def test_builds_wait_for_inodes_and_go_on_by_themselves(
    command_world: World,
) -> None:
    world = command_world
    first, second = (script(world, SMALL, number) for number in (1, 2))
    disk = on_small_disk(world, "size=64m,nr_inodes=1990")
    async with disk as small, world.server() as server:
        assert await try_push(server, first)
        await server.finished(1)
        await asyncio.to_thread(small.take_inodes)
        assert small.inodes_free == 0
        await until_low(server)
        assert await try_push(server, second)
        check = await disk_check(server)
        assert "inodes free" in check["detail"]
        assert (await server.build(2))["state"] == "queued"
        await asyncio.to_thread(small.remove, "inodes")
        await all_green(server, [first, second])


async def test_the_store_has_a_mark_of_its_own(
    tmp_path: Path, origin: Origin, github: FakeGitHub, nix: NixStore
) -> None:
    world = World(tmp_path, origin, github, nix.env, nix.program)
    world.extra = '[disk]\nstore_low = "4000TiB"'
    flake = (
        "{ outputs = _: { packages.x86_64-linux.a = derivation { name = ''a''; "
        "system = ''x86_64-linux''; builder = ''/bin/sh''; "
        "args = [ ''-c'' ''echo > $out'' ]; }; }; }"
    )
    sha = await asyncio.to_thread(origin.commit, {"flake.nix": flake})
    async with world.server() as server:
        assert await try_push(server, sha)
        check = await until_low(server)
        assert "disk.store_low" in check["detail"]
        assert "lower disk.store_low" in check["fix"]
        await wait_until(said(server, "no build begins before"), what="the log's word")
        build = await server.build(1)
        assert build["attempt"] == 0
        assert "disk.store_low" in build["waits"]
