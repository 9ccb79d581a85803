"""What failed and succeeded though it was the same: the same commit, the same derivation."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ci.history.trends import Past
from ci.models import BuildState

MOST = 50
"""So many are told of."""
NAMES = 20
"""Of so many names of failed targets the good builds are looked for."""


@dataclass(frozen=True)
class Flake:
    """Builds that ended differently with the same thing in them; numbers.

    `target` is the one whose derivation is the same; None: the whole commit was built
    again, so that both numbers are the same.
    """

    target: str | None
    failed: int
    succeeded: int


def flakes(connection: sqlite3.Connection, window: Sequence[Past]) -> list[Flake]:
    """Of the builds of a window, the newest first; at most MOST.

    Each commit and each derivation comes once.
    """
    again = [
        Flake(None, build.number, build.number)
        for build in window
        if {"failed", "succeeded"} <= {attempt.outcome for attempt in build.attempts}
    ]
    found = [*again, *_derivations(connection, window)]
    return sorted(found, key=lambda flake: -max(flake.failed, flake.succeeded))[:MOST]


def _derivations(connection: sqlite3.Connection, window: Sequence[Past]) -> list[Flake]:
    broken = [one.number for one in window if one.state is BuildState.FAILED]
    rows = connection.execute(
        "SELECT build, name, derivation FROM targets WHERE state = 'failed' "
        "AND derivation IS NOT NULL AND build IN (SELECT value FROM json_each(?)) "
        "ORDER BY build DESC",
        (json.dumps(broken),),
    ).fetchall()
    failed: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        failed[row["name"]].setdefault(row["derivation"], int(row["build"]))
    names = list(failed)[:NAMES]
    marks = ",".join("?" * len(names))
    good = connection.execute(
        "SELECT t.name, t.derivation, max(t.build) AS build FROM json_each(?) w "  # noqa: S608 — question marks
        f"CROSS JOIN targets t ON t.build = w.value AND t.name IN ({marks}) "
        "WHERE t.state = 'succeeded' GROUP BY t.name, t.derivation",
        (json.dumps([one.number for one in window]), *names),
    )
    return [
        Flake(row["name"], failed[row["name"]][row["derivation"]], int(row["build"]))
        for row in good
        if row["derivation"] in failed[row["name"]]
    ]
