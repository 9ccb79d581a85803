"""Where the time of an attempt went: its derivations, and what had to wait for what.

The rows are read here; lanes and the critical path are worked out from them alone.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ci.models import derivation_name

# Derivations of one attempt that are read: more than any attempt is known to build.
MOST_ROWS = 10_000


@dataclass(frozen=True)
class Stay:
    """One derivation's stay in a builder; `machine` is empty for this host.

    `stopped_at` is None while it is built, and for ever where nobody heard of its end.
    `needs` are derivations of the same attempt that it refers to.
    """

    path: str
    machine: str
    started_at: int
    stopped_at: int | None
    needs: tuple[str, ...] = ()
    failed: bool = False

    @property
    def name(self) -> str:
        return derivation_name(self.path)

    def end(self, now: int) -> int:
        """When it ended, or `now` where that is not known."""
        return max(self.started_at, now if self.stopped_at is None else self.stopped_at)

    def seconds(self, now: int) -> float:
        """How long it held its builder, until `now` at most."""
        return (self.end(now) - self.started_at) / 1000


def stays(
    connection: sqlite3.Connection, build: int, attempt: int, limit: int = MOST_ROWS
) -> list[Stay]:
    """The derivations of an attempt in order of starting; at most `limit`."""
    rows = connection.execute(
        "SELECT path, machine, started_at, stopped_at, needs, failed FROM derivations "
        "WHERE build = ? AND attempt = ? ORDER BY started_at, path LIMIT ?",
        (build, attempt, limit),
    )
    return [
        Stay(
            path=row["path"],
            machine=row["machine"],
            started_at=row["started_at"],
            stopped_at=row["stopped_at"],
            needs=tuple(json.loads(row["needs"])),
            failed=bool(row["failed"]),
        )
        for row in rows
    ]


def lanes(found: Iterable[Stay], now: int) -> dict[str, list[list[Stay]]]:
    """The stays of each machine in as few lanes as there were at once; this host first.

    Within a lane they are in order, and none begins before the one before it ended.
    """
    packed: dict[str, list[list[Stay]]] = defaultdict(list)
    busy: dict[str, list[tuple[int, int]]] = defaultdict(list)
    free: dict[str, list[int]] = defaultdict(list)
    for stay in sorted(found, key=lambda stay: (stay.started_at, stay.end(now))):
        machine = stay.machine
        rows, at_work, idle = packed[machine], busy[machine], free[machine]
        while at_work and at_work[0][0] <= stay.started_at:
            heapq.heappush(idle, heapq.heappop(at_work)[1])
        if idle:
            lane = heapq.heappop(idle)
        else:
            lane = len(rows)
            rows.append([])
        rows[lane].append(stay)
        heapq.heappush(at_work, (stay.end(now), lane))
    return {machine: packed[machine] for machine in sorted(packed)}


def critical_path(found: Sequence[Stay], now: int) -> list[str]:
    """The chain of needs that took the longest, its first derivation first, by path.

    With however many builders, the build had taken no less. Empty where nothing needed
    anything, for then no chain says more than the longest bar.
    """
    seconds: dict[str, float] = defaultdict(float)
    for stay in found:
        seconds[stay.path] += stay.seconds(now)
    needs = {stay.path: [p for p in stay.needs if p in seconds] for stay in found}
    if not any(needs.values()):
        return []
    longest: dict[str, float] = {}
    before: dict[str, str] = {}
    for path in _in_order(needs):
        last = max(needs[path], key=lambda p: longest.get(p, 0.0), default=None)
        longest[path] = seconds[path]
        if last is not None and last in longest:
            longest[path] += longest[last]
            before[path] = last
    if not longest:
        return []
    chain = [max(longest, key=lambda path: longest[path])]
    while chain[-1] in before:
        chain.append(before[chain[-1]])
    return chain[::-1]


def _in_order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Every derivation after those that it needs."""
    waiting = {path: len(set(needed)) for path, needed in needs.items()}
    needed_by: dict[str, list[str]] = defaultdict(list)
    for path, needed in needs.items():
        for other in set(needed):
            needed_by[other].append(path)
    ready = [path for path, count in waiting.items() if not count]
    for path in ready:
        for other in needed_by[path]:
            waiting[other] -= 1
            if not waiting[other]:
                ready.append(other)
    return ready


@dataclass(frozen=True)
class Wait:
    """How long something could have been built already; `after` is what it needed last."""

    seconds: float
    after: str


def waits(found: Sequence[Stay], began: int, now: int) -> dict[str, Wait]:
    """How long each derivation, by path, waited for a builder or a download.

    Counted from the end of the last thing that it needed, else from `began`, when the
    daemon was asked.
    """
    ends: dict[str, int] = {}
    for stay in found:
        ends[stay.path] = max(stay.end(now), ends.get(stay.path, 0))
    waited = {}
    for stay in found:
        known = [path for path in stay.needs if path in ends]
        last = max(known, key=lambda path: ends[path], default="")
        ready = ends[last] if last else began
        if stay.path not in waited:
            waited[stay.path] = Wait(max(0, stay.started_at - ready) / 1000, last)
    return waited
