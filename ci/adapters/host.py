"""This machine: clocks, disks, processes, program versions, the instance lock.

Linux only: /proc/sys/kernel/random/boot_id and /proc/PID/stat are described in proc(5).
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from types import TracebackType
from typing import Protocol

from ci.errors import HistoryError, HostFault, InstanceRunning
from ci.models import rfc3339
from ci.text import printable

_VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)+")
_VERSION_TIMEOUT = 10.0


def now_ms() -> int:
    """Wall clock, milliseconds since the epoch, UTC."""
    return time.time_ns() // 1_000_000


def boot_id() -> str:
    """A name for this boot of the kernel: another one after each reboot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def process_start(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None: there is none.

    Field 22 of /proc/PID/stat. A number that is used again has another start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name is in parentheses and may hold spaces and parentheses.
    return int(stat.rpartition(b")")[2].split()[19])


@dataclass(frozen=True)
class Disk:
    """A file system, in bytes; `inodes_free` is None where it does not count them."""

    total: int
    free: int
    inodes_free: int | None


def disk(path: Path) -> Disk:
    """The file system that holds `path`, or will hold it once it exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    found = os.statvfs(path)
    return Disk(
        total=found.f_blocks * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        inodes_free=found.f_favail if found.f_files else None,
    )


def used(path: Path) -> int | None:
    """Bytes in use of the file system that holds `path`; None where it does not say."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@dataclass(frozen=True)
class Clocks:
    """Seconds, read together: wall clock, running time, time since boot with sleep."""

    wall: float
    running: float
    since_boot: float


def read_clocks() -> Clocks:
    """The three clocks now."""
    return Clocks(
        time.time(), time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    )


# What a busy process, or a clock that is put right a little, may take without sleep.
SLEPT = 10.0


class SleepWatch:
    """Tells whether the machine slept, or this process stood still, since the last look.

    The boot clock counts suspended time, the monotonic one does not. In a virtual
    machine whose host slept neither does, but the wall clock is set forward. A process
    that was stopped or frozen finds all clocks in agreement, but looks far too late.
    """

    def __init__(self, clocks: Callable[[], Clocks] = read_clocks) -> None:
        self._clocks = clocks
        self._last = clocks()

    def look(self, asked: float = math.inf) -> float:
        """Seconds slept since the last look (or since the watch was made); 0 for few.

        `asked`: the seconds after the last look at which this one was due at the latest.
        """
        before, now = self._last, self._clocks()
        self._last = now
        ran = now.running - before.running
        by_kernel = now.since_boot - before.since_boot - ran
        by_wall = now.wall - before.wall - ran
        slept = max(by_kernel, by_wall, ran - asked)
        return slept if slept >= SLEPT else 0.0


class InstanceLock:
    """The lock of a state directory; held until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Let another server have the directory; again is harmless."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> InstanceLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def lock_state_dir(path: Path) -> InstanceLock:
    """Take the state directory at `path` (made when missing) for this process alone.

    Raises InstanceRunning when another server has it and HistoryError when the
    directory cannot be used. The kernel drops the lock when the process ends, however
    it ends; programs that it starts do not inherit it (flock(2), O_CLOEXEC).
    """
    try:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Python opens with O_CLOEXEC.
        descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise HistoryError(
            f"state_dir {path} cannot be used: {error.strerror}; make it a directory "
            "that the service's user may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(os.pread(descriptor, 4096, 0))
        os.close(descriptor)
        raise InstanceRunning(holder) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, _introduction(), 0)
    return InstanceLock(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a server has the state directory at `path`; True where it cannot be seen.

    Looks without standing in the way: the lock is shared, and held for no time.
    """
    try:
        descriptor = os.open(path / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _introduction() -> bytes:
    """Who holds the lock, for the message to whoever comes second."""
    words = [Path(sys.argv[0] or "python").name, *sys.argv[1:2]]
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(words),
        "started": rfc3339(now_ms()),
    }
    return json.dumps(about).encode() + b"\n"


def _holder(content: bytes) -> str:
    """`process 1234 (build-server serve, since 2026-11-20T05:30:00.000Z)`."""
    try:
        about = json.loads(content)
        named = f"{about['command']}, since {about['started']}"
        where = "" if about["host"] == socket.gethostname() else f" on {about['host']}"
        return printable(f"process {about['pid']}{where} ({named})")
    except (ValueError, TypeError, KeyError):
        # It has the lock, but has not written its name yet.
        return "another process"


class _Finished(Protocol):
    @property
    def code(self) -> int: ...
    @property
    def stdout(self) -> bytes: ...


class Run(Protocol):
    """What this module needs of ci.adapters.process.run."""

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 (the signature of process.run)
    ) -> _Finished: ...


async def program_version(
    program: str, *, run: Run, environ: Mapping[str, str]
) -> str | None:
    """The version that `PROGRAM --version` prints last on its first line, or None."""
    try:
        finished = await run(
            [program, "--version"], env=environ, timeout=_VERSION_TIMEOUT
        )
    except (HostFault, TimeoutError):
        return None
    if finished.code != 0:
        return None
    first_line = finished.stdout.decode(errors="replace").partition("\n")[0]
    found: list[str] = _VERSION.findall(first_line)
    return found[-1] if found else None


def library_versions() -> dict[str, str]:
    """Versions of what runs inside this process: python, aiohttp, sqlite."""
    return {
        "python": platform.python_version(),
        "aiohttp": installed_version("aiohttp"),
        "sqlite": sqlite3.sqlite_version,
    }
