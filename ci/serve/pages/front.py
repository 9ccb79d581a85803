"""What the first page and the repositories' pages tell, and the words they use for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from markupsafe import Markup

from ci.config import Settings
from ci.history import builds, context, queue
from ci.history.branch_states import BranchState, Finished, branch_state
from ci.models import Build, BuildState, Check, derivations_built, human_seconds
from ci.serve import shapes, svg

RECENT = 20


@dataclass(frozen=True)
class Progress:
    """How far a running build is: `done` of `total` units, 0 of 0 while nothing is known.

    `elapsed` and `typical`, what the branch's last good builds took, are in seconds.
    `doing` is what it is at, for people.
    """

    done: int
    total: int
    unit: Literal["derivations", "targets"]
    elapsed: float
    typical: float | None
    doing: str

    @property
    def words(self) -> str:
        """`9 of 14 targets · 1m 44s · about 1m 30s left`."""
        parts = [human_seconds(self.elapsed)]
        if self.total:
            parts.insert(0, f"{self.done} of {self.total} {self.unit}")
        if self.typical is not None:
            left = self.typical - self.elapsed
            parts.append(
                f"about {human_seconds(left)} left"
                if left > 0
                else f"longer than the usual {human_seconds(self.typical)}"
            )
        return " · ".join(parts)


@dataclass(frozen=True)
class Front:
    """What runs, what waits and why, each branch, the last builds.

    `typical` has what each of `current` should take, in seconds; `retry_at` is when the
    next build that waits for a retry is due; `trouble` is what the server's checks found.
    """

    current: Sequence[Build]
    queue: Sequence[Build]
    branches: Sequence[BranchState]
    recent: Sequence[Build]
    typical: Mapping[int, float | None]
    retry_at: int | None = None
    waits: str = ""
    trouble: Sequence[Check] = ()
    configured: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def broken(self) -> list[BranchState]:
        return [state for state in self.branches if state.broken_since]


def read_front(connection: sqlite3.Connection, settings: Settings, now: int) -> Front:
    """The whole first page from one snapshot of the history."""
    current = builds.running(connection)
    return Front(
        current=current,
        queue=builds.queued(connection, limit=RECENT),
        branches=[
            branch_state(connection, repository.name, branch)
            for repository in settings.repositories
            for branch in repository.branches
        ],
        recent=builds.page(connection, limit=RECENT),
        typical={
            build.number: context.around(connection, build.number).typical
            for build in current
        },
        retry_at=queue.next_retry_at(connection, now),
        configured={one.name: one.branches for one in settings.repositories},
    )


def progress(build: Build, typical: float | None, now: int) -> Progress:
    """How far the build is at `now`, in milliseconds since the epoch."""
    elapsed = max(0, now - (build.started_at or now)) / 1000
    if counted := derivations_built(build.summary):
        doing = build.summary.partition(" · ")[2]
        return Progress(*counted, "derivations", elapsed, typical, doing)
    done, total = sum(one.state.final for one in build.targets), len(build.targets)
    return Progress(done, total, "targets", elapsed, typical, build.summary)


def since(state: BranchState) -> str:
    """`broken since #410 (77aa012), last good #409`; "" for a branch that is not."""
    if state.broken_since is None:
        return ""
    first = f"broken since #{state.broken_since.number} ({state.broken_since.sha[:7]})"
    if state.last_good is not None:
        return f"{first}, last good #{state.last_good.number}"
    return f"{first} or before" if state.longer else f"{first}, never good"


def trend(state: BranchState) -> Markup:
    """The picture of the branch's last builds: the height is the duration."""
    return _picture(state.branch, tuple(state.trend))


@lru_cache(maxsize=256)
def _picture(branch: str, trend: tuple[Finished, ...]) -> Markup:
    """Kept, for it changes only when a build ends."""
    return svg.bars(
        [
            svg.Bar(
                seconds=one.seconds,
                state=one.state,
                href=f"/builds/{one.number}",
                title=_bar_title(one),
            )
            for one in trend
        ],
        name=f"The last {len(trend)} builds of {branch}, oldest first",
    )


def rate(state: BranchState) -> str:
    """`97 % of the last 30 succeeded`, or "" when there is nothing to count."""
    if state.pass_rate is None:
        return ""
    return f"{state.pass_rate * 100:.0f} % of the last {len(state.trend)} succeeded"


def branch_shape(state: BranchState, last: shapes.Build | None) -> shapes.Branch:
    """The answer for a branch."""
    broken = state.broken_since
    return shapes.Branch(
        repo=state.repo,
        branch=state.branch,
        last=last,
        broken_since=broken.number if broken else None,
        broken_sha=broken.sha if broken else None,
        last_good=state.last_good.number if state.last_good else None,
        typical_seconds=shapes.rounded(state.typical),
        pass_rate=shapes.rounded(state.pass_rate),
        trend=[
            shapes.Finished(
                number=one.number, state=one.state, seconds=shapes.rounded(one.seconds)
            )
            for one in state.trend
        ],
    )


def branch_icon(state: BranchState) -> str:
    """The page's icon for a branch."""
    if state.last is None:
        return "none"
    if state.broken_since or state.last.state is not BuildState.SUCCEEDED:
        return "bad"
    return "ok"


def _bar_title(one: Finished) -> str:
    took = f" in {human_seconds(one.seconds)}" if one.seconds is not None else ""
    return f"#{one.number} {one.state}{took}: {one.title}"
