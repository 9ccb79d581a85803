"""What befalls the host of a build: killed builders, no memory, damaged caches."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.adapters.test_git_damage import without
from tests.end_to_end import impatient
from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import gate, history, open_gate
from tests.end_to_end.test_faults_daemon import back
from tests.fakes.flakes import one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.faults
INSTALLED = pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
MODERN = pytest.mark.parametrize("nix_version", ["modern"], indirect=True)
MIB = 1024**2


@pytest.fixture
def world(tmp_path: Path, github: FakeGitHub, nix: NixStore) -> World:
    """A world that builds with this Nix itself; its server has little patience."""
    world = World(
        tmp_path, Origin(tmp_path / "origin.git"), github, nix.env, nix.program
    )
    world.program = impatient.PROGRAM
    return world


def outcomes(world: World) -> list[str]:
    rows = history(world, "SELECT outcome FROM attempts ORDER BY build, number")
    return [outcome for (outcome,) in rows]


async def pid_of_builder(server: Server) -> int:
    async def told() -> re.Match[bytes] | None:
        if (await server.build(1))["state"] != "running":
            return None
        return re.search(rb"I am (\d+)\n", await server.text("/builds/1/log"))

    found = await wait_until(told, what="the builder's first line")
    assert found is not None
    return int(found[1])


@INSTALLED
async def test_a_builder_that_somebody_killed_is_begun_again(world: World) -> None:
    sha = world.origin.commit(
        one_package(f"echo I am $$; {gate(world)}; echo ok > $out", name="victim")
    )
    async with world.server() as server:
        await server.push(sha)
        os.kill(await pid_of_builder(server), signal.SIGKILL)
        await back(server, 1, "killed by signal 9")
        open_gate(world)
        assert (await server.finished(1))["state"] == "succeeded"
    assert outcomes(world) == ["error", "succeeded"]


@pytest.fixture
def little_memory() -> Iterator[Path]:
    """A control group with 32 MiB; whoever joins it and takes more is killed."""
    for parent in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
        for limit in ("memory.limit_in_bytes", "memory.max"):
            group = Path(parent, f"build-server-test-{os.getpid()}")
            try:
                group.mkdir()
                (group / limit).write_text(str(32 * MIB))
            except OSError:
                if group.is_dir():
                    group.rmdir()
                continue
            yield group
            group.rmdir()
            return
    pytest.skip("no control group for memory here: the kernel's killer is not tested")


@INSTALLED
async def test_a_tool_that_the_kernel_killed_for_memory_is_not_the_commits_failure(
    world: World, little_memory: Path
) -> None:
    """The builder itself lives on, and exits with a code like any other."""
    greedy = (
        f"sh -c 'echo $$ > {little_memory}/cgroup.procs && exec tail /dev/zero' || "
        "{ echo compiler failed; exit 2; }"
    )
    once = f"mkdir {world.folder}/once 2>/dev/null"
    sha = world.origin.commit(
        one_package(f"if {once}; then {greedy}; fi; echo ok > $out", name="greedy")
    )
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build
    ((outcome, reason),) = history(
        world, "SELECT outcome, reason FROM attempts WHERE number = 1"
    )
    assert outcome == "error"
    assert "memory ran out while it was built" in reason
    assert "exit code 2: compiler failed" in reason


@INSTALLED
async def test_time_that_is_spent_waiting_for_others_is_not_the_commits(
    world: World, nix: NixStore
) -> None:
    """Somebody else builds the same: the daemon lets us wait, and our time runs out."""
    flake = one_package(f"{gate(world)}; echo ok > $out", name="shared")
    sha = world.origin.commit(flake)
    (world.folder / "elsewhere").mkdir()
    (world.folder / "elsewhere/flake.nix").write_text(flake["flake.nix"])
    # The evaluation counts: long enough for a slow machine.
    world.build = {"timeout": "10s"}
    first = await asyncio.create_subprocess_exec(
        *(nix.program, "build", "--no-link", f"path:{world.folder}/elsewhere#shared"),
        env=dict(nix.env),
    )
    store = Path(nix.env["NIX_STORE_DIR"])
    await wait_until(lambda: list(store.glob("*-shared.lock")), what="its lock")
    async with world.server() as server:
        await server.push(sha)
        await back(server, 1, "timed out while nothing of it was being built")
        open_gate(world)
        assert (await server.finished(1))["state"] == "succeeded"
    assert await first.wait() == 0
    assert outcomes(world)[0] == "error"
    assert "failed" not in outcomes(world)


def spoil(folder: Path) -> None:
    """Half of every file below is lost."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@MODERN
async def test_a_damaged_cache_of_nixs_is_thrown_away(world: World) -> None:
    """Today's Nix reads a commit from there: without care its flake is what is broken."""
    text = one_package("echo ok > $out", name="cached")
    before = world.origin.commit({**text, "big": os.urandom(20_000)})
    world.build = {"timeout": "20s"}
    async with world.server() as server:
        await server.push(before)
        assert (await server.finished(1))["state"] == "succeeded"
        (clone,) = (world.state_dir / "cache/1/nix").glob("gitv3/*/objects")
        await asyncio.to_thread(spoil, clone)
        assert (await server.post("/builds/1/retry"))[0] == 202
        assert (await server.finished(1))["state"] == "succeeded"
        sha = world.origin.commit({"small": "x"})
        await server.push(sha, before=before)
        assert (await server.finished(2))["state"] == "succeeded"
    assert "failed" not in outcomes(world)


@INSTALLED
async def test_commits_that_only_sound_like_a_damaged_cache_fail_side_by_side(
    world: World,
) -> None:
    """They share a cache: that others fill it again must not excuse them for ever."""
    throws = '{ outputs = _: throw "my git repository is odd"; }'
    bad = [world.origin.commit({"flake.nix": throws, "n": str(n)}) for n in range(2)]
    shared = world.state_dir / "cache/1/nix"

    async def others() -> None:
        while True:
            # The server may remove what is above at the same moment.
            with suppress(FileNotFoundError, FileExistsError):
                await asyncio.to_thread(shared.mkdir, parents=True, exist_ok=True)

    async with world.server() as server:
        busy = asyncio.create_task(others())
        await server.push(bad)
        for number in (1, 2):
            build = await server.finished(number)
            assert build["state"] == "failed", build
            assert "my git repository is odd" in build["summary"]
        busy.cancel()
        assert not list((world.state_dir / "checkouts").glob("*"))


@INSTALLED
async def test_a_damaged_mirror_is_fetched_anew(world: World) -> None:
    text = one_package("echo ok > $out", name="mirrored")
    sha = world.origin.commit(text)
    async with world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        (mirror,) = (world.state_dir / "mirrors").glob("*")
        lost = world.origin.git("rev-parse", f"{sha}:flake.nix").decode().strip()
        await asyncio.to_thread(without, mirror, lost)
        await asyncio.to_thread(shutil.rmtree, world.state_dir / "cache/1")
        assert (await server.post("/builds/1/retry"))[0] == 202
        assert (await server.finished(1))["state"] == "succeeded"
    found = outcomes(world)
    assert "failed" not in found
    assert "error" in found
