"""Control groups: whose they are, and that nothing in one outlives its job.

Where the kernel gives memory and pids to version 1 (as here, mostly), what they limit is
tested in a machine of its own: tests/end_to_end/test_guest.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ci.adapters.cgroup import Cgroup, Kernel, NotDelegated, shared_out, take
from ci.adapters.process.table import read_row
from tests.adapters.test_cells import NOBODY, system_python
from tests.fakes.tree import CHECKOUT
from tests.fakes.waiting import PATIENCE, wait_until_sync

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "25 24 0:23 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
HYBRID = f"{V1}33 24 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
UNIT = "/system.slice/build-server.service"
CONTAINER = f"40 39 0:26 {UNIT} /sys/fs/cgroup ro - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("mounts", "cgroups", "found"),
    [
        (V2, f"0::{UNIT}\n", f"/sys/fs/cgroup{UNIT}"),
        (HYBRID, f"4:memory:/x\n0::{UNIT}\n", f"/sys/fs/cgroup/unified{UNIT}"),
        (V2, "0::/\n", "/sys/fs/cgroup"),
        (CONTAINER, f"0::{UNIT}/server\n", "/sys/fs/cgroup/server"),
        (V1, "4:memory:/x\n", None),
        (V1, f"0::{UNIT}\n", None),
        ("", "", None),
    ],
)
def test_where_a_process_is(
    tmp_path: Path, mounts: str, cgroups: str, found: str | None
) -> None:
    for pid in ("self", "12"):
        (tmp_path / pid).mkdir()
    (tmp_path / "self/mountinfo").write_text(mounts)
    (tmp_path / "12/cgroup").write_text(cgroups)
    kernel = Kernel(tmp_path)
    if found is None:
        with pytest.raises(NotDelegated):
            kernel.cgroup_of(12)
    else:
        assert kernel.cgroup_of(12) == Path(found)
    with pytest.raises(NotDelegated, match="No such file"):
        kernel.cgroup_of(13)


def test_what_is_not_ours_is_left_alone() -> None:
    """Root may write everywhere; that is no permission."""
    if os.geteuid() != 0:
        pytest.skip("a user's own cgroup may be his to take: only root can try this")
    before = Path("/proc/self/cgroup").read_text()
    with pytest.raises(NotDelegated):
        take("test-not-ours")
    assert Path("/proc/self/cgroup").read_text() == before
    assert shared_out(os.getpid()) is None


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A cgroup of version 2 as systemd hands one over, without any controller."""
    try:
        path = Kernel().cgroup_of() / f"test-cgroup-{os.getpid()}"
        path.mkdir()
        os.setxattr(path, "user.delegate", b"1")
    except (NotDelegated, OSError) as error:
        pytest.skip(f"no cgroup can be made here ({error}): their end is not tested")
    yield path
    Cgroup(path).remove()


SERVER = """
import asyncio, os, sys
from ci.adapters.cells import Cells, Limits
from ci.adapters.cgroup import take

async def main():
    cells = Cells(take(sys.argv[1], controllers=()))
    async with cells.cell(Limits(2**30, 100, "build.command_memory")) as cell:
        argv = cell.enter(["/bin/sh", "-c", sys.argv[2]])
        # Whatever process groups and marks may show: only the cgroup ends it here.
        done = await asyncio.create_subprocess_exec(
            *argv, stdin=-3, stdout=asyncio.subprocess.PIPE, stderr=2)
        print((await done.stdout.read()).decode(), end="", flush=True)
        if len(sys.argv) > 3:
            await asyncio.sleep(1000)
        print(await done.wait(), await cell.excess())
    print(sorted(p.name for p in cells.cgroups.base.iterdir() if p.is_dir()))
    print(open("/proc/self/cgroup").read().split("/")[-1].strip())

asyncio.run(main())
"""
# Its own session, no parent, no standard streams, deaf to TERM; its id is printed.
DAEMON = "(trap '' TERM; setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!)"


def serve(
    place: Path,
    *arguments: str,
    python: Sequence[str] = (sys.executable,),
    code: Path = CHECKOUT,
) -> subprocess.Popen[str]:
    """A process of the server's kind, started inside `place`; `code` holds `ci`."""
    enter = ["sh", "-c", f'echo 0 >{place}/cgroup.procs; exec "$@"', "sh"]
    argv = [*enter, *python, "-c", SERVER, *arguments]
    return subprocess.Popen(argv, cwd=code, stdout=subprocess.PIPE, text=True)


def lines(server: subprocess.Popen[str]) -> Sequence[str]:
    said, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    return said.splitlines()


def test_no_child_outlives_its_job(delegated: Path) -> None:
    """Not even one that no table of processes leads to."""
    said = lines(serve(delegated, "ours", f"{DAEMON}; exit 3"))
    assert said[1:] == ["3 None", "['server']", "server"]
    assert read_row(int(said[0])) is None


def test_what_a_dead_server_left_is_ended_by_the_next(delegated: Path) -> None:
    other = delegated / "job-another-7"
    other.mkdir()
    with serve(delegated, "ours", DAEMON, "stay") as dead:
        assert dead.stdout is not None
        daemon = int(dead.stdout.readline())
        wait_until_sync(
            lambda: list(delegated.glob("job-ours-*")), what="its job's cgroup"
        )
        dead.send_signal(signal.SIGKILL)
    assert read_row(daemon) is not None
    said = lines(serve(delegated, "ours", "true"))
    assert said == ["0 None", "['job-another-7', 'server']", "server"]
    assert read_row(daemon) is None


def test_a_server_that_systemd_put_aside_already(delegated: Path) -> None:
    """`DelegateSubgroup=server`, or started again by hand."""
    (delegated / "server").mkdir()
    said = lines(serve(delegated / "server", "ours", "exit 1"))
    assert said == ["1 None", "['server']", "server"]


def test_a_user_takes_what_systemd_gave_him(delegated: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can hand a cgroup to another user: not tested")
    os.removexattr(delegated, "user.delegate")
    python = (*NOBODY, system_python(), "-B")
    # The checkout may lie where nobody else may look.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        code = Path(name)
        code.chmod(0o755)
        shutil.copytree(CHECKOUT / "ci", code / "ci")
        with serve(delegated, "ours", "true", python=python, code=code) as refused:
            assert refused.wait(PATIENCE) != 0
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(delegated / name, 65534, 65534)
        script = f"{DAEMON}; exit 3"
        said = lines(serve(delegated, "ours", script, python=python, code=code))
    assert said[1:] == ["3 None", "['server']", "server"]
    assert read_row(int(said[0])) is None


def test_a_job_that_cannot_enter_its_cgroup_does_not_run(tmp_path: Path) -> None:
    argv = Cgroup(tmp_path / "gone").enter(["echo", "it ran"])
    done = subprocess.run(argv, capture_output=True)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")
