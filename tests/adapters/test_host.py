"""This machine as it is: real processes, real locks, real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from ci.adapters import process
from ci.adapters.host import (
    Clocks,
    SleepWatch,
    boot_id,
    disk,
    library_versions,
    lock_state_dir,
    now_ms,
    process_start,
    program_version,
)
from ci.errors import HistoryError, InstanceRunning
from tests.fakes.waiting import wait_until_sync

HOLDER = """
import subprocess, sys
from pathlib import Path
from ci.adapters.host import lock_state_dir
sys.argv = ["/usr/bin/build-server", "serve", "--config", "x"]
lock = lock_state_dir(Path({path!r}))
child = subprocess.Popen(["sleep", "600"], close_fds=False)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_clocks_and_boot() -> None:
    assert now_ms() > 1_700_000_000_000
    assert re.fullmatch(r"[0-9a-f-]{36}", boot_id())
    assert boot_id() == boot_id()


def test_a_process_is_known_by_its_start(tmp_path: Path) -> None:
    """Also one whose name looks like the fields that follow it."""
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "600"])
    try:
        wait_until_sync(lambda: "(b" in Path(f"/proc/{child.pid}/comm").read_text())
        ours, theirs = process_start(os.getpid()), process_start(child.pid)
        assert ours is not None
        assert theirs is not None
        assert theirs > ours
        ticks = os.sysconf("SC_CLK_TCK")
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        assert 0 <= uptime - theirs / ticks < 60
    finally:
        child.kill()
        child.wait()
    assert process_start(child.pid) is None


def test_libraries_tell_their_versions() -> None:
    versions = library_versions()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["aiohttp"] == aiohttp.__version__
    assert versions["sqlite"] == sqlite3.sqlite_version


def test_disks_are_measured_before_their_folder_exists(tmp_path: Path) -> None:
    here, later = disk(tmp_path), disk(tmp_path / "not" / "yet")
    assert here.total == later.total
    assert 0 < here.free <= here.total
    assert here.inodes_free is None or here.inodes_free > 0


def test_one_server_for_one_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with lock_state_dir(state) as lock:
        assert json.loads((state / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(InstanceRunning, match=f"process {os.getpid()} "):
            lock_state_dir(state)
    lock.release()
    lock_state_dir(state).release()


def test_the_lock_ends_with_its_holder_however_it_ends(tmp_path: Path) -> None:
    """Killed with -9 while a child of it lives on: the next server may start."""
    script = HOLDER.format(path=str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(InstanceRunning) as caught:
            lock_state_dir(tmp_path)
        assert re.fullmatch(
            rf"process {holder.pid} \(build-server serve, since 20.*Z\)",
            caught.value.holder,
        )
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert process_start(child) is not None
        lock_state_dir(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()


def test_a_holder_that_has_not_said_its_name_is_still_one(tmp_path: Path) -> None:
    with lock_state_dir(tmp_path):
        (tmp_path / "lock").write_text('{"pid": 1, "comm')
        with pytest.raises(InstanceRunning, match="in use by another process; stop it"):
            lock_state_dir(tmp_path)


def test_a_state_directory_that_cannot_be_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HistoryError, match="Not a directory; make it a directory"):
        lock_state_dir(tmp_path / "file" / "state")


def test_sleep_is_seen_by_either_clock() -> None:
    moments = iter(
        [
            Clocks(wall=1000.0, running=10.0, since_boot=10.0),
            Clocks(wall=1060.0, running=70.0, since_boot=70.0),
            Clocks(wall=4720.0, running=130.0, since_boot=3730.0),
            Clocks(wall=8380.0, running=190.0, since_boot=3790.0),
            Clocks(wall=8000.0, running=250.0, since_boot=3850.0),
        ]
    )
    watch = SleepWatch(lambda: next(moments))
    assert [watch.look() for _ in range(4)] == [0, 3600, 3600, 0]
    assert SleepWatch().look() < 1


def test_a_process_that_stood_still_looks_too_late() -> None:
    """Stopped or frozen: all clocks agree, but 15 seconds took a minute."""
    moments = [0.0, 15.0, 75.0, 90.1, 98.0]
    clocks = iter([Clocks(1000 + at, at, at) for at in moments])
    watch = SleepWatch(lambda: next(clocks))
    assert [watch.look(15) for _ in moments[1:]] == [0, 45, 0, 0]


def test_a_busy_moment_or_a_corrected_clock_is_no_sleep() -> None:
    moments = [
        Clocks(wall=1000.0, running=0.0, since_boot=0.0),
        Clocks(wall=1023.0, running=23.0, since_boot=23.0),
        Clocks(wall=1045.0, running=38.0, since_boot=38.0),
        Clocks(wall=-5000.0, running=53.0, since_boot=53.0),
    ]
    clocks = iter(moments)
    watch = SleepWatch(lambda: next(clocks))
    assert [watch.look(15) for _ in moments[1:]] == [0, 0, 0]


JUMP = """
import ctypes, os, sys
from ci.adapters.host import SleepWatch
CLONE_NEWTIME = 0x80
libc = ctypes.CDLL(None, use_errno=True)
watch = SleepWatch()
awake = watch.look()
if libc.unshare(CLONE_NEWTIME):
    sys.exit(f"unshare: {os.strerror(ctypes.get_errno())}")
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write("boottime 3600 0")
there = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
if libc.setns(there, CLONE_NEWTIME):
    sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
print(awake, round(watch.look()), watch.look())
"""


def test_the_kernel_s_own_boot_clock_tells_of_an_hour_of_sleep() -> None:
    """In a time namespace the boot clock goes forward as it does during suspension."""
    done = subprocess.run(
        [sys.executable, "-c", JUMP], capture_output=True, text=True, timeout=30
    )
    if done.returncode and ("unshare" in done.stderr or "setns" in done.stderr):
        pytest.skip(
            f"no time namespace here ({done.stderr.strip()}): not tested that a jump of "
            "the kernel's boot clock is seen as sleep"
        )
    assert done.stdout.split() == ["0.0", "3600", "0.0"], done.stderr


async def test_versions_are_those_that_programs_print(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"]}
    git = await program_version("git", run=process.run, environ=environ)
    told = await process.run(["git", "--version"], env=environ, timeout=10)
    assert git
    assert git in told.stdout.decode()
    program = tmp_path / "program"
    for line, version in (
        ("nix (Nix) 2.8.0", "2.8.0"),
        ("nix (Determinate Nix 3.6.2) 2.29.0", "2.29.0"),
        ("nix (Nix) 2.36.0pre20261101_abcdef", "2.36.0"),
        ("bubblewrap 0.8.0", "0.8.0"),
        ("no number", None),
    ):
        program.write_text(f"#!/bin/sh\necho '{line}'\necho 9.9.9\n")
        program.chmod(0o755)
        found = await program_version(str(program), run=process.run, environ=environ)
        assert found == version
    program.write_text("#!/bin/sh\necho 1.2.3\nexit 1\n")
    for silent in (str(program), str(tmp_path / "none")):
        assert await program_version(silent, run=process.run, environ=environ) is None
