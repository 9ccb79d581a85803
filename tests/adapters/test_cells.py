"""The limits of a job, run into for real: memory, processes, and what they must not hinder."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ci.adapters.cells import Cells, Limits, counting
from ci.adapters.process import Finished, run, spawn
from ci.adapters.sandbox import Sandbox

MIB = 2**20
PATH = {"PATH": os.environ["PATH"]}
LIMITS = Limits(300 * MIB, 350, "build.command_memory")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
# The kernel counts the processes of a user, whoever started them: one of this run alone.
STRANGER = 20_000 + os.getpid() % 40_000
AS_STRANGER = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", *NOBODY[3:])
BY_RESOURCE = Cells(unshare=counting())
PID_MAX = Path("/proc/sys/kernel/pid_max")

# Starts children until it may not, or has 500; none is reaped, so each of them counts.
FORKS = """
import os, sys
children = []
try:
    while len(children) < 500:
        child = os.fork()
        if child == 0:
            os._exit(0)
        children.append(child)
except OSError as error:
    print(error.errno, file=sys.stderr)
print(len(children))
"""
RESERVES = """
import mmap, sys
kept = mmap.mmap(-1, 4 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)
print("reserved")
used = bytearray(int(sys.argv[1]) << 20)
print("used")
"""


async def in_cell(
    cells: Cells,
    argv: Sequence[str],
    limits: Limits = LIMITS,
    *,
    user: Sequence[str] = (),
) -> Finished:
    async with cells.cell(limits) as cell:
        entered = cell.enter(cell.counted(argv))
        return await run([*user, *entered], env=PATH, timeout=50)


def python(script: str, *arguments: str) -> list[str]:
    return ["/usr/bin/env", "python3", "-c", script, *arguments]


def system_python() -> str:
    """One that other users may run, too."""
    found = shutil.which("python3", path="/usr/bin:/bin")
    if found is None:
        pytest.skip("no Python in /usr/bin: limits of other users are not tested")
    return found


async def test_a_command_may_reserve_what_it_does_not_use() -> None:
    limits = LIMITS
    done = await in_cell(BY_RESOURCE, [sys.executable, "-c", RESERVES, "200"], limits)
    assert done.stdout.split() == [b"reserved", b"used"], done
    done = await in_cell(BY_RESOURCE, [sys.executable, "-c", RESERVES, "400"], limits)
    assert done.stdout.split() == [b"reserved"]
    assert b"MemoryError" in done.stderr
    strict = replace(limits, counted="address space")
    done = await in_cell(BY_RESOURCE, [sys.executable, "-c", RESERVES, "1"], strict)
    assert done.stdout == b""
    assert done.code != 0


@pytest.mark.parametrize("prlimit", [shutil.which("prlimit"), None])
async def test_what_a_job_may_have_of_the_rest(prlimit: str | None) -> None:
    script = (
        "ulimit -d; ulimit -v; ulimit -c; ulimit -S -n; cat /proc/self/oom_score_adj"
    )
    cells = replace(BY_RESOURCE, prlimit=prlimit)
    done = await in_cell(cells, ["sh", "-c", script])
    data, address, core, files, score = done.stdout.split()
    assert (int(data), address) == (300 * 1024, b"unlimited")
    assert (core, files, score) == (b"0", b"1024", b"500")


async def test_root_and_others_start_only_so_many_processes() -> None:
    """The kernel does not count root's by itself, and for us alone it must not."""
    if os.geteuid() != 0:
        pytest.skip("only root can try it as root and as another user")
    argv = [system_python(), "-c", FORKS]
    done = await in_cell(replace(BY_RESOURCE, unshare=None), argv, user=AS_STRANGER)
    assert 300 < int(done.stdout) < 350, done
    if BY_RESOURCE.unshare is None:
        pytest.skip("Linux 6.14 counts root's processes; this one is older: not tested")
    before = await asyncio.to_thread(PID_MAX.read_text)
    done = await in_cell(BY_RESOURCE, argv)
    assert 300 < int(done.stdout) < 350, done
    assert await asyncio.to_thread(PID_MAX.read_text) == before
    done = await in_cell(replace(BY_RESOURCE, unshare=None), argv)
    assert int(done.stdout) == 500, "the test would see it"


async def test_a_fork_bomb_takes_no_process_from_another_job(tmp_path: Path) -> None:
    """Two sandboxes of one user: each has all that a job may have, at the same time."""
    bwrap = shutil.which("bwrap")
    if os.geteuid() != 0 or bwrap is None:
        pytest.skip("only root can try it as another user, with bubblewrap")
    met = """
import time
open(sys.argv[1], "w").close()
until = time.monotonic() + 20
while not os.path.exists(sys.argv[2]) and time.monotonic() < until:
    time.sleep(0.01)
"""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        os.chown(name, STRANGER, STRANGER)

        async def bomb(own: str, other: str) -> int:
            argv = [system_python(), "-c", FORKS + met, own, other]
            cells = replace(BY_RESOURCE, unshare=None)
            async with cells.cell(LIMITS) as cell:
                confined = Sandbox(bwrap).command(
                    cell.counted(argv), checkout=Path(name), network=False
                )
                entered = [*AS_STRANGER, *cell.enter(confined.argv)]
                done = await run(entered, env=confined.env, timeout=50)
            assert done.code == 0, done
            return int(done.stdout)

        started = await asyncio.gather(bomb("a", "b"), bomb("b", "a"))
    assert all(300 < count < 350 for count in started), started


@pytest.mark.parametrize("unshare", [None, BY_RESOURCE.unshare])
async def test_a_job_ends_as_it_would_without_limits(unshare: str | None) -> None:
    cells = replace(BY_RESOURCE, unshare=unshare)
    assert (await in_cell(cells, ["sh", "-c", "exit 7"])).code == 7
    killed = await in_cell(cells, ["sh", "-c", "kill -9 $$"])
    assert killed.code in (-9, 128 + 9)
    async with cells.cell(LIMITS) as cell:
        argv = cell.enter(["sh", "-c", "echo up; exec sleep 1000"])
        async with spawn(argv, env=PATH, grace=50) as process:
            assert await process.read() == b"up\n"
            # Who does not hear TERM is killed, which another code would tell.
            code = await process.stop(50)
    assert code in (-signal.SIGTERM, 128 + signal.SIGTERM)


async def test_without_cgroups_nobody_tells_what_a_job_ran_into() -> None:
    async with BY_RESOURCE.cell(LIMITS) as cell:
        argv = cell.enter([sys.executable, "-c", RESERVES, "400"])
        assert (await run(argv, env=PATH, timeout=50)).code == 1
        assert await cell.excess() is None
