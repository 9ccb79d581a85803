"""What ended on each day, from counters that triggers keep: exact, whatever the history holds.

Days are UTC's and numbered from the epoch. Durations and waits are counted in steps of at
most a tenth of the value (see the view `build_days`), so a percentile of them is within 5 %.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ci.models import BuildState

DAY_MS = 86_400_000
# (below so many tenths of a second, step); the view has the same.
_STEPS = (
    *((20, 1), (50, 2), (100, 5), (200, 10), (500, 20), (1000, 50), (2000, 100)),
    *((5000, 200), (10_000, 500), (20_000, 1000), (50_000, 2000), (100_000, 5000)),
)
_COARSEST = 10_000
_STATES = tuple(state for state in BuildState if state.final)
_KINDS = json.dumps([*_STATES, "took", "waited", "built", "substituted"])


@dataclass(frozen=True)
class Spread:
    """How often each duration came: (seconds, times), the shortest first."""

    counted: Sequence[tuple[float, int]] = ()

    def percentile(self, share: float) -> float | None:
        """Seconds that so many of them do not exceed; None without any."""
        wanted = max(1, math.ceil(share * sum(n for _, n in self.counted)))
        for seconds, n in self.counted:
            wanted -= n
            if wanted <= 0:
                return seconds
        return None


@dataclass(frozen=True)
class Totals:
    """All that ended in some days. `took` is of good builds, `waited` of all that began.

    `built` are derivations, `substituted` paths.
    """

    states: Mapping[BuildState, int] = field(default_factory=dict)
    took: Spread = Spread()
    waited: Spread = Spread()
    built: int = 0
    substituted: int = 0

    @property
    def ended(self) -> int:
        return sum(self.states.values())


def day_of(at: int) -> int:
    """The day of a moment in milliseconds since the epoch."""
    return at // DAY_MS


def totals(
    connection: sqlite3.Connection,
    first: int,
    repo: str | None = None,
    branch: str | None = None,
) -> Totals:
    """What has ended since day `first`, of a repository, or of a branch, where given."""
    found: defaultdict[str, dict[int, int]] = defaultdict(dict)
    rows = connection.execute(
        "SELECT kind, value, sum(n) FROM days WHERE repository_id = ? AND branch = ? "
        "AND kind IN (SELECT value FROM json_each(?)) AND day >= ? GROUP BY kind, value",
        (_repository(connection, repo), branch or "", _KINDS, first),
    )
    for kind, value, n in rows:
        found[kind][value] = n
    return Totals(
        states={state: found[state][0] for state in _STATES if state in found},
        took=_spread(found["took"]),
        waited=_spread(found["waited"]),
        built=found["built"].get(0, 0),
        substituted=found["substituted"].get(0, 0),
    )


def calendar(
    connection: sqlite3.Connection, repo: str, branch: str | None, first: int
) -> dict[int, dict[BuildState, int]]:
    """Day -> how many builds ended how, from day `first` on; days without any are left out.

    Of a branch of the repository, or of all of it.
    """
    found: defaultdict[int, dict[BuildState, int]] = defaultdict(dict)
    rows = connection.execute(
        "SELECT day, kind, n FROM days WHERE repository_id = ? AND branch = ? "
        "AND kind IN (SELECT value FROM json_each(?)) AND day >= ? ORDER BY day",
        (_repository(connection, repo), branch or "", json.dumps(_STATES), first),
    )
    for day, kind, n in rows:
        found[day][BuildState(kind)] = n
    return dict(found)


def _repository(connection: sqlite3.Connection, repo: str | None) -> int:
    """Its id; 0 is all of them, and -1 is none."""
    if repo is None:
        return 0
    row = connection.execute(
        "SELECT id FROM repositories WHERE name = ?", (repo,)
    ).fetchone()
    return -1 if row is None else int(row["id"])


def _spread(counted: Mapping[int, int]) -> Spread:
    return Spread([(_seconds(value), counted[value]) for value in sorted(counted)])


def _seconds(tenths: int) -> float:
    """The middle of the step that begins there."""
    step = next((step for below, step in _STEPS if tenths < below), _COARSEST)
    return (tenths + step / 2) / 10
