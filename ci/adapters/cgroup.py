"""Control groups (v2): limits for all processes of a job together, and its sure end.

systemd hands a unit with `Delegate=yes` its own part of the tree (systemd's "Control
Group APIs and Delegation"); files and rules are those of the kernel's "Control Group
v2". Below the cgroup that is ours:

    server          this process: a cgroup that shares controllers out holds none itself
    job-MARK-7      one evaluation or command; MARK names our state directory

Needs Linux 5.14 (cgroup.kill). Everything here blocks for some milliseconds.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

log = logging.getLogger(__name__)

CONTROLLERS = ("memory", "pids")
SERVER = "server"
PROCS = "cgroup.procs"
SHARED = "cgroup.subtree_control"
# systemd marks what it delegates; the user's mark came later (systemd 252).
DELEGATED = ("user.delegate", "trusted.delegate")
DEATH_SECONDS = 5.0
LEAVE_SECONDS = 1.0
# Echo's failure ends it: nothing may run without its limits.
ENTER = 'echo 0 >"$1" || kill -9 $$; shift; exec "$@"'


class NotDelegated(Exception):
    """There is no cgroup of our own; `str()` says why, for a person."""


@dataclass(frozen=True)
class Kernel:
    """Where the kernel shows processes and cgroups; another place in tests."""

    proc: Path = Path("/proc")

    def cgroup_of(self, pid: int | str = "self") -> Path:
        """The directory of a process's cgroup. Raises NotDelegated: there is no v2."""
        try:
            lines = (self.proc / str(pid) / "cgroup").read_text().splitlines()
            mounts = (self.proc / "self/mountinfo").read_text().splitlines()
        except OSError as error:
            raise NotDelegated(f"/proc does not tell: {error.strerror}") from error
        names = [line[3:] for line in lines if line.startswith("0::/")]
        for fields in map(str.split, mounts):
            # "... root mountpoint options - type ...", proc(5)
            if names and fields[fields.index("-") + 1] == "cgroup2":
                return Path(fields[4], _below(names[0], fields[3]))
        raise NotDelegated("control groups are not mounted as version 2 here")


def _below(name: str, root: str) -> str:
    """A cgroup's name, relative to the one that the mount shows."""
    return name.removeprefix("" if root == "/" else root).lstrip("/")


@dataclass(frozen=True)
class Events:
    """What a job ran into: how often the kernel killed for memory, or refused to fork."""

    killed: int
    refused: int


@dataclass(frozen=True)
class Cgroup:
    """The cgroup of one job; `remove` it, whatever happens."""

    path: Path

    def enter(self, argv: Sequence[str]) -> list[str]:
        """A command line that goes into the cgroup and is `argv` from then on."""
        return ["/bin/sh", "-c", ENTER, "sh", str(self.path / PROCS), *argv]

    def events(self) -> Events:
        memory = _numbers(self.path / "memory.events")
        processes = _numbers(self.path / "pids.events")
        return Events(memory.get("oom_kill", 0), processes.get("max", 0))

    def remove(self) -> None:
        """KILL all that is left in it, wait for its end, and take the cgroup away.

        What the kernel does not let go of is left for the next start, with a warning.
        """
        try:
            _end(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("%s stays: %s", self.path, error.strerror)


@dataclass(frozen=True)
class Cgroups:
    """Our part of the tree; `controllers` are shared out to the jobs in it."""

    base: Path
    prefix: str
    controllers: Sequence[str]
    _numbers: Iterator[int]

    def make(self, *, memory: int, processes: int) -> Cgroup:
        """A cgroup for one job of at most `memory` bytes, swap not used, and `processes`.

        Raises OSError where the kernel refuses.
        """
        path = self.base / f"{self.prefix}{next(self._numbers)}"
        path.mkdir()
        limits = {
            "memory.max": memory,
            "memory.swap.max": 0,
            # One job, one fate: half of a build is worth nothing.
            "memory.oom.group": 1,
            "pids.max": processes,
        }
        for name, limit in limits.items():
            # Without swap in the kernel there is no limit for it.
            if (path / name).exists():
                (path / name).write_text(str(limit))
        return Cgroup(path)

    def kills(self) -> int:
        """How often the kernel killed for memory in any job, ended ones too."""
        return _numbers(self.base / "memory.events").get("oom_kill", 0)


def take(
    mark: str, kernel: Kernel | None = None, controllers: Sequence[str] = CONTROLLERS
) -> Cgroups:
    """Move this process aside in a cgroup that is ours, and share its controllers out.

    What a dead server of this `mark` left there is killed and removed. Raises
    NotDelegated, having changed nothing.
    """
    kernel = kernel or Kernel()
    own = kernel.cgroup_of()
    base = own.parent if own.name == SERVER and _is_ours(own.parent) else own
    _check(base, controllers)
    if own == base:
        _move(base / SERVER)
    try:
        _share(base, controllers)
    except OSError as error:
        if own == base:
            _move(base)
            (base / SERVER).rmdir()
        busy = "other processes are in it" if error.errno == errno.EBUSY else ""
        raise NotDelegated(f"{base}: {busy or error.strerror}") from error
    prefix = f"job-{mark}-"
    for left in base.glob(f"{prefix}*"):
        log.warning("%s is of a dead server: what runs there is killed", left)
        Cgroup(left).remove()
    return Cgroups(base, prefix, tuple(controllers), count(1))


def _share(base: Path, controllers: Sequence[str]) -> None:
    """Share the controllers out; raises OSError, EBUSY while processes are in `base`.

    What was tried before us, bubblewrap say, may leave a process that is still dying.
    """
    wanted = " ".join(f"+{name}" for name in controllers)
    deadline = time.monotonic() + LEAVE_SECONDS
    while True:
        try:
            (base / SHARED).write_text(wanted)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def shared_out(pid: int, kernel: Kernel | None = None) -> Path | None:
    """Our part of the tree when process `pid` is a server that took one, else None."""
    try:
        own = (kernel or Kernel()).cgroup_of(pid)
        shared = (own.parent / SHARED).read_text().split()
    except (NotDelegated, OSError):
        return None
    took = own.name == SERVER and set(CONTROLLERS) <= set(shared)
    return own.parent if took else None


def _check(base: Path, controllers: Sequence[str]) -> None:
    """Raises NotDelegated unless `base` is ours and has what is needed."""
    advice = "in a systemd unit, write Delegate=yes"
    if not _is_ours(base):
        raise NotDelegated(f"the cgroup {base} is not delegated to us: {advice}")
    offered = (base / "cgroup.controllers").read_text().split()
    if missing := [name for name in controllers if name not in offered]:
        raise NotDelegated(f"{base} lacks {' and '.join(missing)}: {advice}")
    if not (base / "cgroup.kill").exists():
        raise NotDelegated("cgroup.kill is missing: Linux 5.14 or newer is needed")


def _is_ours(base: Path) -> bool:
    """Whether we may do as we like below `base`: root may write everywhere, and must not.

    The kernel's own root has no cgroup.type; that of a container has, and is its own.
    """
    written = (base, base / PROCS, base / SHARED)
    if not all(os.access(path, os.W_OK) for path in written):
        return False
    if os.geteuid() != 0:
        return True
    for name in DELEGATED:
        with suppress(OSError):
            return os.getxattr(base, name) == b"1"
    own_tree = os.path.ismount(base)
    return own_tree and (base / "cgroup.type").exists()


def _move(path: Path) -> None:
    """Put this process into a cgroup, made when absent. Raises NotDelegated."""
    try:
        path.mkdir(exist_ok=True)
        (path / PROCS).write_text("0")
    except OSError as error:
        raise NotDelegated(f"{path}: {error.strerror}") from error


def _numbers(file: Path) -> dict[str, int]:
    """`name number` lines; none when the file, or the whole cgroup, is not there."""
    try:
        words = file.read_text().split()
    except OSError:
        return {}
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def _end(path: Path) -> None:
    """KILL, wait, remove: children first, which a job may have made for itself."""
    (path / "cgroup.kill").write_text("1")
    _wait_until_empty(path / "cgroup.events")
    for child in [entry for entry in path.iterdir() if entry.is_dir()]:
        _end(child)
    path.rmdir()


def _wait_until_empty(events: Path) -> None:
    """The kernel says by POLLPRI that the file changed."""
    deadline = time.monotonic() + DEATH_SECONDS
    with events.open("rb", buffering=0) as file:
        changed = select.poll()
        changed.register(file, select.POLLPRI)
        while (left := deadline - time.monotonic()) > 0:
            file.seek(0)
            if b"populated 0" in file.read():
                return
            changed.poll(left * 1000)
