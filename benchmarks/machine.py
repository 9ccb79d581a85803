"""This machine, and what processes cost it, as /proc tells."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def describe() -> str:
    """One paragraph: when, and on what."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {os.cpu_count()} cores, {model}, "
        f"{memory:.0f} GiB; Linux {platform.release()}; Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{_version('git')}, {_version('nix')}; load average before: "
        f"{os.getloadavg()[0]:.2f}"
    )


def _version(program: str) -> str:
    if shutil.which(program) is None:
        return f"no {program}"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    return done.stdout.strip()


@dataclass(frozen=True)
class Memory:
    """MiB: resident, and resident with shared pages divided among their users."""

    rss: float
    pss: float


def memory(pid: int) -> Memory:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) / 1024
    return Memory(found["Rss"], found["Pss"])


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its children that have been reaped."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    # Fields 14 to 17 of proc(5): utime, stime, cutime, cstime.
    return sum(map(int, after_name.split()[11:15])) / _TICKS


def thread_seconds(pid: int) -> float:
    """Processor time of a process's threads that are there now, without its children."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def sleeps(pid: int) -> int:
    """How often the threads of a process have gone to sleep: each was a wake-up."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def busy_seconds() -> float:
    """Processor time that all of the machine has spent on anything but waiting."""
    first = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _, _, irq, softirq = map(int, first.split()[1:8])
    return (user + nice + system + irq + softirq) / _TICKS


@dataclass
class Spent:
    """What a block took: seconds, and processor time of everybody and of ourselves."""

    seconds: float = 0.0
    busy: float = 0.0
    own: float = 0.0

    def others(self, servers: float) -> float:
        """Cores that strangers used meanwhile, but for `servers` seconds of a server's."""
        return max(0.0, (self.busy - self.own - servers) / self.seconds)


@contextmanager
def spending() -> Iterator[Spent]:
    """Children that end within the block count as our own."""
    spent = Spent()
    begun, busy, own = time.monotonic(), busy_seconds(), sum(os.times()[:4])
    try:
        yield spent
    finally:
        spent.seconds = time.monotonic() - begun
        spent.busy = busy_seconds() - busy
        spent.own = sum(os.times()[:4]) - own


@contextmanager
def busy_cores(seconds: float) -> Iterator[None]:
    """A loop at normal priority on every core, for `seconds` at the very most."""
    argv = ["timeout", "--signal=KILL", f"{seconds}", "sh", "-c", "while :; do :; done"]
    loops = [
        subprocess.Popen(argv, start_new_session=True)
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for loop in loops:
            os.killpg(loop.pid, 9)
            loop.wait()
