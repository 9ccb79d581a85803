"""No room where Nix builds or where git fetches: ours, whatever a builder says of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.end_to_end import impatient
from tests.end_to_end.server import World
from tests.end_to_end.test_contract_commits import (
    gate,
    history,
    open_gate,
    script,
)
from tests.end_to_end.test_faults_daemon import back
from tests.fakes.flakes import one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.faults
MIB = 1024**2
LIMITS = '[disk]\nstate_low = "1MiB"\nstore_low = "1MiB"\nballast = "1MiB"\n'
BIG = "dd if=/dev/zero of=$out bs=1M count=12 2>&1"
# A tool that tidies up after itself: when Nix looks, there is room again. The server,
# which looks every second, has seen it by then.
TIDY = f"{BIG} || {{ sleep 10; rm -f $out; echo linker failed; exit 3; }}"


def leave(disk: SmallDisk, room: int) -> None:
    """Take all but `room` bytes of the disk."""
    with (disk.inside / "filler").open("wb") as file:
        left = disk.free - room
        while left > 0:
            left -= file.write(bytes(min(left, MIB)))


@pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
@pytest.mark.parametrize("script", [BIG, TIDY], ids=["left", "tidied"])
async def test_a_full_store_is_ours_and_what_is_built_when_there_is_room_is_green(
    script: str, tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    origin = Origin(tmp_path / "origin.git")
    world = World(tmp_path, origin, github, fresh_nix.env, fresh_nix.program)
    world.program, world.extra = impatient.PROGRAM, LIMITS
    # The first attempt begins at once, the next when the gate is open.
    once = f"mkdir {tmp_path}/once 2>/dev/null || {{ {gate(world)}; }}"
    sha = origin.commit(one_package(f"{once}; {script}"))
    async with small_disk(fresh_nix.root / "store", "size=40m") as disk:
        world.wrapper = disk.wrapper
        await asyncio.to_thread(leave, disk, 10 * MIB)
        async with world.server() as server:
            await server.push(sha)
            await back(server, 1, "MiB")
            ((outcome, reason),) = history(
                world, "SELECT outcome, reason FROM attempts WHERE number = 1"
            )
            assert outcome == "error"
            assert "MiB" in reason
            disk.remove("filler")
            open_gate(world)
            build = await server.finished(1)
            assert build["state"] == "succeeded", build
            await world.github.wait_for(sha, "success")
    assert "failure" not in {status.state for status in github.taken}


async def test_a_fetch_that_fills_the_disk_is_ours_and_leaves_nothing_behind(
    command_world: World,
) -> None:
    world = command_world
    world.program, world.extra = impatient.PROGRAM, LIMITS
    world.build = {"sandbox": False}
    before = script(world)
    async with small_disk(world.state_dir, "size=24m") as disk:
        world.wrapper = disk.wrapper
        async with world.server() as server:
            await server.push(before)
            assert (await server.finished(1))["state"] == "succeeded"
            await asyncio.to_thread(leave, disk, 5 * MIB)
            sha = world.origin.commit({"big": os.urandom(10 * MIB)})
            await server.push(sha, before=before)
            build = await server.finished(2)
            assert build["state"] == "error", build
            assert "MiB left" in build["summary"] or "no room" in build["summary"]
            # Half a pack is not left lying on a disk that is full already.
            assert disk.free > 3 * MIB
            disk.remove("filler")
            assert (await server.post("/builds/2/retry"))[0] == 202
            assert (await server.finished(2))["state"] == "succeeded"
            await world.github.wait_for(sha, "success")
    assert {"failure"}.isdisjoint(status.state for status in world.github.taken)
