"""A cell for each evaluation and command: what it may take of this host, and no more.

By cgroup where a part of the tree is delegated to us (see cgroup.py): then the limits
hold for all processes of a job together, the kernel says what a job ran into, and
nothing outlives it. Otherwise by resource limits, which hold for each process alone and
of which nobody is told. Either way the kernel, short of memory, takes jobs before us.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from ci.adapters.cgroup import Cgroup, Cgroups, NotDelegated, take
from ci.errors import HostLimit

GIB = 2**30
# What a job may have open at most; below, what old programs can cope with.
FILES = (1024, 524_288)
# From 6.14 on each pid namespace has its own limit; before, there was one for the host.
OWN_PID_MAX = (6, 14)
LEAST_PID_MAX = 301
# Short of memory, the kernel takes whoever has the higher score: a job, not the server.
FIRST_TO_GO = 'echo 500 2>/dev/null >/proc/self/oom_score_adj; exec "$@"'
# Not `exec`: the first process of a namespace is deaf to TERM.
PID_MAX = 'echo "$1" 2>/dev/null >/proc/sys/kernel/pid_max; shift; "$@"; exit $?'

_PRLIMIT = shutil.which("prlimit")
_UNSHARE = shutil.which("unshare")

# Which resource limit stands for memory. Address space is the stricter: shared memory
# counts, and what is only reserved. Compilers and runtimes (Go, Java, JavaScript, GHC)
# reserve far more than they use, so commands are limited in what they may write: DATA,
# which from Linux 4.7 on counts private writable mappings.
Counted = Literal["address space", "data"]
KINDS = {"address space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA}
OPTIONS = {"address space": ("--as", "-v"), "data": ("--data", "-d")}


@dataclass(frozen=True)
class Excess:
    """What a job did that its limits forbid, and the key that sets the limit."""

    what: str
    key: str

    def sentence(self, job: str, where: str = "") -> str:
        """`evaluation took more than 4 GiB of memory, at … (build.eval_memory)`."""
        return f"{job} {self.what}{where} ({self.key})"


@dataclass(frozen=True)
class Limits:
    """What one job may take: bytes of memory, processes.

    `key` is what sets the memory in the configuration.
    """

    memory: int
    processes: int
    key: str
    counted: Counted = "data"

    @property
    def too_much_memory(self) -> Excess:
        """What a job did that ran into it."""
        return Excess(f"took more than {self.memory / GIB:.3g} GiB of memory", self.key)

    @property
    def too_many_processes(self) -> Excess:
        """What a job did that was refused another process."""
        most = f"had more than {self.processes} processes at a time"
        return Excess(most, "build.processes")


@dataclass(frozen=True)
class Cell:
    """Where one job runs, as long as the context of `Cells.cell` lasts."""

    limits: Limits
    cgroup: Cgroup | None
    prlimit: str | None
    unshare: str | None = None

    def counted(self, argv: Sequence[str]) -> list[str]:
        """A command line, for inside the sandbox, that may have only so many processes.

        There the kernel counts those of this sandbox alone (from Linux 5.14 on): counted
        outside, a fork bomb would take them from other jobs of the same user.
        """
        if self.cgroup is not None or self.prlimit is None:
            return list(argv)
        most = _within(resource.RLIMIT_NPROC, self.limits.processes)
        return [self.prlimit, f"--nproc={most}", "--", *argv]

    def enter(self, argv: Sequence[str]) -> list[str]:
        """A command line that takes on the other limits and is `argv` from then on."""
        limited = self._limited(argv)
        if self.cgroup is not None:
            limited = self.cgroup.enter(limited)
        elif self.unshare is not None:
            limited = self._apart(self.unshare, limited)
        return ["/bin/sh", "-c", FIRST_TO_GO, "sh", *limited]

    async def excess(self) -> Excess | None:
        """Which limit of ours the job ran into.

        None when into none, as far as the kernel tells: it tells of cgroups only.
        """
        if self.cgroup is None:
            return None
        events = await asyncio.to_thread(self.cgroup.events)
        if events.killed:
            return self.limits.too_much_memory
        return self.limits.too_many_processes if events.refused else None

    def _limited(self, argv: Sequence[str]) -> list[str]:
        """No core files, and what the cgroup does not limit, as resource limits."""
        low, high = FILES[0], _within(resource.RLIMIT_NOFILE, FILES[1])
        memory = None
        if self.cgroup is None:
            memory = _within(KINDS[self.limits.counted], self.limits.memory)
        if self.prlimit is None:
            script = _script(min(low, high), memory, self.limits.counted)
            return ["/bin/sh", "-c", script, "sh", *argv]
        limits = ["--core=0", f"--nofile={min(low, high)}:{high}"]
        if memory is not None:
            limits.append(f"{OPTIONS[self.limits.counted][0]}={memory}")
        return [self.prlimit, *limits, "--", *argv]

    def _apart(self, unshare: str, argv: Sequence[str]) -> list[str]:
        """Processes counted by a pid namespace of its own, as root's are not otherwise."""
        most = str(max(self.limits.processes, LEAST_PID_MAX))
        own = [unshare, "--pid", "--fork", "--kill-child", "--"]
        return [*own, "/bin/sh", "-c", PID_MAX, "sh", most, *argv]


@dataclass(frozen=True)
class Cells:
    """Makes cells: by cgroup, or else (`why` there is none) by resource limits."""

    cgroups: Cgroups | None = None
    why: str = "nobody asked for cgroups"
    prlimit: str | None = _PRLIMIT
    unshare: str | None = None

    @classmethod
    def open(cls, mark: str) -> Cells:
        """Take the part of the cgroup tree that is ours, if any; blocks for a moment.

        `mark` names our state directory; see cgroup.take for what is done.
        """
        try:
            return cls(take(mark), "")
        except NotDelegated as error:
            return cls(None, str(error), unshare=counting())

    @asynccontextmanager
    async def cell(self, limits: Limits) -> AsyncIterator[Cell]:
        """A cell for one job; when the context ends nothing runs in its cgroup any more.

        Raises HostLimit when the kernel makes no cgroup.
        """
        if self.cgroups is None:
            yield Cell(limits, None, self.prlimit, self.unshare)
            return
        memory, processes = limits.memory, limits.processes
        try:
            cgroup = await asyncio.to_thread(
                self.cgroups.make, memory=memory, processes=processes
            )
        except OSError as error:
            raise HostLimit(f"no cgroup for this job: {error.strerror}") from error
        try:
            yield Cell(limits, cgroup, self.prlimit)
        finally:
            await asyncio.to_thread(cgroup.remove)

    def kills(self) -> int:
        """How often the kernel has killed in our cells, for memory; reads a file.

        Those are among the kills that /proc/vmstat counts, and say nothing of the host.
        """
        return 0 if self.cgroups is None else self.cgroups.kills()

    @property
    def described(self) -> str:
        """One sentence: which of the two is in force, and why not the better one."""
        if self.cgroups is not None:
            return (
                f"memory and processes of each job by cgroup, below {self.cgroups.base}"
            )
        return f"memory and processes by resource limits, for each process: {self.why}"


def counting() -> str | None:
    """`unshare`, where it is needed to count processes (for root) and can do so."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    known = release is not None and tuple(map(int, release.groups())) >= OWN_PID_MAX
    return _UNSHARE if known and os.geteuid() == 0 else None


def _script(files: int, memory: int | None, counted: Counted) -> str:
    """The same by a shell, whose limits are in KiB; not all of them can count processes."""
    limit = ""
    if memory is not None:
        limit = f"ulimit {OPTIONS[counted][1]} {memory // 1024}; "
    return f'ulimit -c 0; ulimit -S -n {files}; {limit}exec "$@"'


def _within(kind: int, wanted: int) -> int:
    """`wanted`, or our own hard limit: only a privileged process may go above it."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
