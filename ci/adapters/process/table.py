"""The kernel's table of processes: who came from whom, and the end of whole families.

A process that left its group (`setsid`, a double fork) is still found: by its parents
while they live, and by a variable in the environment it was started with (proc(5)).
Everything here blocks for some milliseconds; call it in a thread.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
# Each round ends all that can be seen; what was forked meanwhile is met in the next.
ROUNDS = 10
DEATH_SECONDS = 5.0
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Row:
    """One live process; `started` is in clock ticks since boot and tells reused ids."""

    pid: int
    parent: int
    group: int
    session: int
    started: int


Table = Mapping[int, Row]


def read_table() -> dict[int, Row]:
    """Every process of this host but zombies, by its id."""
    rows = (read_row(int(name)) for name in os.listdir(PROC) if name.isdigit())
    return {row.pid: row for row in rows if row is not None}


def read_row(pid: int) -> Row | None:
    """What /proc/PID/stat says; None for a zombie and for no process at all."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except GONE:
        return None
    # Counted from the last parenthesis: the name before it may hold anything.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return Row(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def family(root: int, variable: bytes) -> set[Row]:
    """All that came from `root`: its session, its descendants, whoever has its mark."""
    table = read_table()
    ours = [
        pid
        for pid, row in table.items()
        if root in (pid, row.session) or _started_with(pid, variable)
    ]
    return _descendants(table, [root, *ours])


def strangers(variable: bytes) -> set[Row]:
    """Processes with the mark, and their groups, outside of this process's tree."""
    table = read_table()
    own = _descendants(table, [os.getpid()]) | set(_ancestors(table, os.getpid()))
    marked = {
        row for row in set(table.values()) - own if _started_with(row.pid, variable)
    }
    groups = {row.group for row in marked} - {row.group for row in own}
    mates = {row for row in table.values() if row.group in groups}
    return marked | mates


def end(find: Callable[[], set[Row]]) -> set[Row]:
    """KILL what `find` finds and wait for it, until nothing is found; tells all met."""
    met: set[Row] = set()
    for _ in range(ROUNDS):
        found = find()
        met |= found
        if not found:
            break
        _kill(found)
    return met


def _descendants(table: Table, roots: Iterable[int]) -> set[Row]:
    children: dict[int, list[int]] = {}
    for row in table.values():
        children.setdefault(row.parent, []).append(row.pid)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return {table[pid] for pid in found if pid in table}


def _ancestors(table: Table, pid: int) -> Iterator[Row]:
    while pid in table:
        yield table[pid]
        pid = table[pid].parent


def _started_with(pid: int, variable: bytes) -> bool:
    """Whether `NAME=value` was in its first environment; False if out of our reach."""
    try:
        environ = (PROC / str(pid) / "environ").read_bytes()
    except (*GONE, PermissionError):
        return False
    return variable in environ.split(b"\0")


def _kill(rows: Iterable[Row]) -> None:
    dying = select.poll()
    alive = {handle for row in rows if (handle := _signalled(row)) is not None}
    for handle in alive:
        dying.register(handle, select.POLLIN)
    deadline = time.monotonic() + DEATH_SECONDS
    while alive and (left := deadline - time.monotonic()) > 0:
        for handle, _ in dying.poll(left * 1000):
            dying.unregister(handle)
            alive.remove(handle)
            os.close(handle)
    for handle in alive:
        os.close(handle)


def _signalled(row: Row) -> int | None:
    """A handle that becomes readable at its death; None: dead already, or not ours."""
    try:
        handle = os.pidfd_open(row.pid)
    except ProcessLookupError:
        return None
    try:
        # The handle holds the id: if it is the same process now, it is the one to kill.
        now = read_row(row.pid)
        if now is not None and now.started == row.started:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return handle
    except (ProcessLookupError, PermissionError):
        pass
    os.close(handle)
    return None


def command_lines() -> Iterator[list[bytes]]:
    """The arguments of every process that has some."""
    for pid in read_table():
        try:
            line = (PROC / str(pid) / "cmdline").read_bytes()
        except GONE:
            continue
        if line:
            yield line.rstrip(b"\0").split(b"\0")
