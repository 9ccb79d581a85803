"""Limits by cgroup, run into for real: this file runs in the guest of test_guest.py.

There everything is ours: this process stands in for a service to which systemd has
delegated its cgroup, and the server that it starts is another one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from ci.adapters.cells import Cells, Excess, Limits
from ci.adapters.cgroup import Kernel, shared_out
from ci.adapters.process import Finished, run
from ci.adapters.process.table import command_lines
from ci.adapters.sandbox import Sandbox
from ci.errors import HostLimit
from tests.adapters.nix_bench import bench_of
from tests.adapters.test_cells import FORKS, python
from tests.end_to_end.server import Server, World
from tests.end_to_end.test_command import script
from tests.fakes.flakes import HERE
from tests.fakes.guest import IN_GUEST
from tests.fakes.nix_stores import find_nix, private_store
from tests.fakes.waiting import wait_until

MIB = 2**20
LIMITS = Limits(100 * MIB, 60, "build.command_memory")
TREE = Path("/sys/fs/cgroup")
# Six processes with 25 MiB each: no limit for a process alone would mind.
MANY = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        break
kept = bytearray(25 << 20)
time.sleep(20)
"""


def delegated(name: str) -> Path:
    """A cgroup such as systemd makes for `Delegate=yes`."""
    path = TREE / name
    path.mkdir(exist_ok=True)
    os.setxattr(path, "user.delegate", b"1")
    return path


@pytest.fixture(scope="session")
def cells() -> Cells:
    if not os.environ.get(IN_GUEST):
        pytest.skip("only in the guest of test_guest.py may this process be moved")
    (delegated("tests") / "cgroup.procs").write_text("0")
    opened = Cells.open("guest")
    assert opened.why == ""
    assert Kernel().cgroup_of() == TREE / "tests/server"
    assert shared_out(os.getpid()) == TREE / "tests"
    return opened


async def ends(cells: Cells, argv: list[str]) -> tuple[Finished, Excess | None]:
    """How the program ended in a cell, and what it ran into; its cgroup is gone."""
    async with cells.cell(LIMITS) as cell:
        done = await run(cell.enter(argv), env={"PATH": os.defpath}, timeout=50)
        excess = await cell.excess()
    assert [path.name for path in (TREE / "tests").glob("job-*")] == []
    return done, excess


async def test_within_its_limits_a_job_ends_as_it_likes(cells: Cells) -> None:
    done, excess = await ends(cells, ["sh", "-c", "cat /proc/self/cgroup; exit 3"])
    assert (done.code, excess) == (3, None)
    assert done.stdout.startswith(b"0::/tests/job-guest-")


async def test_memory_is_that_of_all_processes_together(cells: Cells) -> None:
    before = await asyncio.to_thread(cells.kills)
    done, excess = await ends(cells, python(MANY))
    assert done.code == -9
    assert excess == LIMITS.too_much_memory
    assert await asyncio.to_thread(cells.kills) > before


async def test_files_in_memory_are_memory(cells: Cells) -> None:
    bwrap = shutil.which("bwrap")
    fill = "head -c 150000000 /dev/zero >/tmp/x; echo filled"
    confined = Sandbox(bwrap).command(
        ["sh", "-c", fill], checkout=Path("/run"), network=False
    )
    done, excess = await ends(cells, confined.argv)
    assert (done.code, done.stdout) == (-9, b"")
    assert excess == LIMITS.too_much_memory


async def test_processes_are_counted_for_root_too(cells: Cells) -> None:
    done, excess = await ends(cells, python(FORKS))
    assert 50 < int(done.stdout) < 60
    assert excess == LIMITS.too_many_processes


async def test_an_evaluation_that_takes_too_much_is_no_fault_of_the_commit(
    cells: Cells, tmp_path: Path
) -> None:
    double = (
        'builtins.foldl\' (a: _: a + a) "0123456789abcdef" (builtins.genList (n: n) 26)'
    )
    flake = f"{{ outputs = _: {{ packages.{HERE}.long = {double}; }}; }}"
    with private_store(find_nix("installed")) as store:
        sandbox = Sandbox(shutil.which("bwrap"))
        bench = await bench_of(store, sandbox, tmp_path, memory=200 * MIB, cells=cells)
        sha = bench.origin.commit({"flake.nix": flake})
        with pytest.raises(HostLimit) as caught:
            await bench.evaluate(sha, "packages.*")
    assert str(caught.value) == (
        "evaluation took more than 0.195 GiB of memory, at packages.long "
        "(build.eval_memory)"
    )


async def test_a_server_in_its_own_cgroup_outlives_every_bomb(
    cells: Cells, command_world: World
) -> None:
    world = command_world
    unit = delegated("unit")
    enter = f'echo 0 >{unit}/cgroup.procs; exec "$@"'
    world.wrapper = ("/bin/sh", "-c", enter, "sh")
    world.build = {"command_memory": "100MiB", "processes": 64, "parallel": 1}
    memory = script(world, "exec python3 bomb", bomb=MANY.encode())
    forks = script(world, "exec python3 bomb || exit 3", bomb=(FORKS + "1/0").encode())
    good = script(world, "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo fine")
    async with world.server() as server:
        said = [line["message"] for line in server.lines]
        limits = "memory and processes of each job by cgroup, below"
        assert f"limits: {limits} {unit}" in said, said
        for sha in (memory, forks, good):
            await server.push(sha)
        assert (await server.finished(3))["state"] == "succeeded"
        for number, words in ((1, "0.0977 GiB of memory"), (2, "64 processes at")):
            await wait_until(partial(_says, server, number, words), 30, what=words)
        assert await server.stop() == 0
        status = await asyncio.to_thread((unit / "memory.events").read_text)
        assert "oom_kill 0" not in status, "the test would see it"
        assert [path.name for path in unit.glob("job-*")] == []
        running = await asyncio.to_thread(lambda: list(command_lines()))
        assert [line for line in running if b"1000" in line] == []


async def _says(server: Server, number: int, words: str) -> bool:
    """Whether the build waits for its next attempt, for this reason."""
    build = await server.build(number)
    assert build["state"] in ("queued", "running"), build
    said: str = build["summary"]
    return said.startswith("the command ") and words in said
