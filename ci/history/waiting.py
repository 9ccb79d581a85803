"""Builds that wait for what others must put right: a remote, an input's server, a daemon.

Such a try costs nothing, so that the number of tries says nothing; it is the time and the
number together that end the patience (see ci/build/retries.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ci.models import BuildState, Outcome


def in_vain(connection: sqlite3.Connection, number: int) -> tuple[int, int]:
    """How often the build has waited in vain since it was last asked for, and when that was.

    The time is milliseconds since the epoch.
    """
    row = connection.execute(
        "SELECT b.queued_at, count(a.number) AS tries FROM builds b "
        "LEFT JOIN attempts a ON a.build = b.number AND a.outcome = ? "
        "AND a.started_at >= b.queued_at WHERE b.number = ?",
        (Outcome.WAITED, number),
    ).fetchone()
    return int(row["tries"]), int(row["queued_at"] or 0)


def waiting(connection: sqlite3.Connection, repository: int) -> list[tuple[int, str]]:
    """Number and SHA of each build of the repository that waits."""
    rows = connection.execute(
        "SELECT number, sha FROM builds WHERE state = ? AND repository_id = ?",
        (BuildState.QUEUED, repository),
    )
    return [(int(row["number"]), row["sha"]) for row in rows]


def postpone(
    connection: sqlite3.Connection,
    numbers: Sequence[int],
    *,
    until: int,
    reason: str,
) -> None:
    """Try none of these builds before `until`, for `reason`, as far as they still wait."""
    connection.executemany(
        "UPDATE builds SET not_before = ?, summary = ? "
        "WHERE number = ? AND state = 'queued' AND not_before < ?",
        [(until, reason, number, until) for number in numbers],
    )
