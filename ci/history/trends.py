"""How the last builds have gone: durations, waits, results, caches, in one bounded window.

A window is read by an index from its newest build down, so that a long history costs no
more than a short one. Nothing is counted that is not in the window.
"""

from __future__ import annotations

import json
import math
import sqlite3
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ci.models import BuildState

_COLUMNS = (
    "SELECT b.number, b.repository_id, b.branch, b.state, b.title, b.queued_at, "
    "b.finished_at, b.seconds, c.position FROM builds b "
    "LEFT JOIN branch_commits c ON c.build = b.number "
    "AND c.repository_id = b.repository_id AND c.branch = b.branch "
)
_ATTEMPTS = (
    "SELECT build, started_at, finished_at, seconds, outcome, built, substituted, "
    "store_used, steps FROM attempts WHERE build IN (SELECT value FROM json_each(?)) "
    "ORDER BY build, number"
)


@dataclass(frozen=True)
class Tried:
    """One attempt; see the table `attempts`."""

    started_at: int
    finished_at: int | None
    seconds: float | None
    outcome: str | None
    built: int | None
    substituted: int | None
    store_used: int | None
    steps: str = "[]"

    @property
    def step_seconds(self) -> dict[str, float]:
        """Step -> seconds, of an attempt that has ended; those that came twice together."""
        begun = [(str(name), int(at)) for name, at in json.loads(self.steps)]
        if self.finished_at is None:
            return {}
        took: dict[str, float] = defaultdict(float)
        ends = [*(at for _, at in begun), self.finished_at][1:]
        for (name, at), end in zip(begun, ends, strict=True):
            took[name] += max(0, end - at) / 1000
        return dict(took)


@dataclass(frozen=True)
class Past:
    """One build of a window with its attempts; moments in milliseconds since the epoch.

    `line` is the branch of a repository that it belongs to, `position` its place there.
    """

    number: int
    line: tuple[int, str | None]
    position: int
    state: BuildState
    title: str
    queued_at: int
    finished_at: int | None
    seconds: float | None
    attempts: tuple[Tried, ...]

    @property
    def wait(self) -> float | None:
        """Seconds in the queue before the first attempt since it was queued last."""
        begun = [a.started_at for a in self.attempts if a.started_at >= self.queued_at]
        return (min(begun) - self.queued_at) / 1000 if begun else None

    @property
    def errors(self) -> int:
        """Attempts that ended by our own fault."""
        return sum(attempt.outcome == "error" for attempt in self.attempts)

    @property
    def last(self) -> Tried | None:
        return self.attempts[-1] if self.attempts else None


def window(
    connection: sqlite3.Connection,
    repo: str | None = None,
    branch: str | None = None,
    limit: int = 200,
) -> list[Past]:
    """The `limit` newest builds by number, the oldest of them first.

    Of a repository, or of a branch of one, where they are given.
    """
    if repo is not None and branch is not None:
        chosen = (
            "SELECT build FROM branch_commits WHERE branch = ? AND repository_id = "
            "(SELECT id FROM repositories WHERE name = ?) ORDER BY build DESC LIMIT ?"
        )
        given: Sequence[object] = (branch, repo, limit)
    elif repo is not None:
        chosen = (
            "SELECT number FROM builds WHERE repository_id = "
            "(SELECT id FROM repositories WHERE name = ?) ORDER BY number DESC LIMIT ?"
        )
        given = (repo, limit)
    elif branch is not None:
        chosen = (
            "SELECT DISTINCT build FROM branch_commits WHERE branch = ? "
            "ORDER BY build DESC LIMIT ?"
        )
        given = (branch, limit)
    else:
        chosen, given = (
            "SELECT number FROM builds ORDER BY number DESC LIMIT ?",
            (limit,),
        )
    sql = f"{_COLUMNS}WHERE b.number IN ({chosen}) ORDER BY b.number"
    rows = connection.execute(sql, given).fetchall()
    tried = _attempts(connection, [row["number"] for row in rows])
    return [_past(row, tried.get(row["number"], ())) for row in rows]


def _attempts(
    connection: sqlite3.Connection, numbers: Sequence[int]
) -> dict[int, tuple[Tried, ...]]:
    found: dict[int, list[Tried]] = defaultdict(list)
    # The numbers are whole: no other text is in the list.
    for build, *rest in connection.execute(_ATTEMPTS, (str(list(numbers)),)):
        found[build].append(Tried(*rest))
    return {number: tuple(attempts) for number, attempts in found.items()}


def _past(row: sqlite3.Row, attempts: tuple[Tried, ...]) -> Past:
    return Past(
        number=row["number"],
        line=(row["repository_id"], row["branch"]),
        position=row["position"] or 0,
        state=BuildState(row["state"]),
        title=row["title"],
        queued_at=row["queued_at"],
        finished_at=row["finished_at"],
        seconds=row["seconds"],
        attempts=attempts,
    )


def store_of(connection: sqlite3.Connection, number: int) -> PurePath | None:
    """The store directory of the newest derivation among the 100 builds up to `number`."""
    row = connection.execute(
        "SELECT derivation FROM targets WHERE build BETWEEN ? AND ? "
        "AND derivation IS NOT NULL ORDER BY build DESC LIMIT 1",
        (number - 100, number),
    ).fetchone()
    return None if row is None else PurePath(row["derivation"]).parent


def percentile(values: Iterable[float], share: float) -> float | None:
    """The smallest of `values` that so many of them do not exceed; None without any."""
    ordered = sorted(values)
    if not ordered:
        return None
    return _at(ordered, share)


def rolling(
    values: Sequence[float | None], share: float, span: int
) -> list[float | None]:
    """At each place the percentile of the last `span` values up to it.

    None where there is none yet.
    """
    recent: deque[float] = deque()
    # The same in order: sorting anew at each place took most of a page's time.
    ordered: list[float] = []
    found: list[float | None] = []
    for value in values:
        if value is not None:
            if len(recent) == span:
                del ordered[bisect_left(ordered, recent.popleft())]
            recent.append(value)
            insort(ordered, value)
        found.append(_at(ordered, share) if ordered else None)
    return found


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def repairs(window: Iterable[Past]) -> list[float]:
    """Seconds from a branch's breaking to its next good build, in the order of branches.

    Only what both began and ended within the window.
    """
    lines: dict[tuple[int, str | None], list[Past]] = defaultdict(list)
    for build in window:
        if build.state in (BuildState.SUCCEEDED, BuildState.FAILED):
            lines[build.line].append(build)
    found = []
    for line, builds in lines.items():
        if line[1] is None:
            continue
        good, broken = False, None
        for build in sorted(builds, key=lambda build: build.position):
            if build.state is BuildState.FAILED:
                broken = broken or (build.finished_at if good else None)
                good = False
                continue
            if broken is not None and build.finished_at is not None:
                # An older commit may have been built later.
                found.append(max(0, build.finished_at - broken) / 1000)
            good, broken = True, None
    return found


def busy(window: Iterable[Past], slots: int, now: int) -> float | None:
    """The share of `slots` that attempts took from the first one's begin to the last's end."""
    attempts = [attempt for build in window for attempt in build.attempts]
    if not attempts or slots < 1:
        return None
    begin = min(attempt.started_at for attempt in attempts)
    ends = [now if a.finished_at is None else a.finished_at for a in attempts]
    if max(ends) <= begin:
        return None
    taken = sum(
        max(0, end - attempt.started_at)
        for attempt, end in zip(attempts, ends, strict=True)
    )
    return min(1.0, taken / (slots * (max(ends) - begin)))
