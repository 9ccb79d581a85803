"""What has ended lately, for readers that ask again and again: the feeds.

Nothing here looks further back than a bounded number of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ci.history import builds
from ci.history.branch_states import VERDICTS
from ci.models import Build, BuildState

LOOKED = 2000
"""So many builds, the newest ones, are looked through."""

_LATELY = (
    "SELECT number FROM builds INDEXED BY builds_finished "
    "WHERE finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT :looked"
)
_OF_REPOSITORY = (
    "SELECT number FROM builds INDEXED BY builds_repository WHERE repository_id = ("
    "  SELECT id FROM repositories WHERE name = :repo) "
    "ORDER BY number DESC LIMIT :looked"
)
_ON_BRANCH = (
    "SELECT build AS number, position FROM branch_commits INDEXED BY branch_commits_order "
    "WHERE repository_id = (SELECT id FROM repositories WHERE name = :repo) "
    "AND branch = :branch ORDER BY position DESC LIMIT :looked"
)


def finished(
    connection: sqlite3.Connection,
    *,
    repo: str | None = None,
    branch: str | None = None,
    state: BuildState | None = None,
    limit: int,
) -> list[Build]:
    """Builds that have ended, what ended last first; skipped ones only when asked for.

    `branch` needs a `repo`. They are among the LOOKED newest builds of what is asked for.
    """
    where = _ON_BRANCH if branch else _OF_REPOSITORY if repo else _LATELY
    rows = connection.execute(
        f"SELECT b.number FROM ({where}) near CROSS JOIN builds b "  # noqa: S608 — literals
        "ON b.number = near.number WHERE b.finished_at IS NOT NULL "
        "AND CASE WHEN :state IS NULL THEN b.state <> 'skipped' "
        "ELSE b.state = :state END "
        "ORDER BY b.finished_at DESC, b.number DESC LIMIT :limit",
        {
            "repo": repo,
            "branch": branch,
            "state": state,
            "looked": LOOKED,
            "limit": limit,
        },
    )
    return builds.numbered(connection, [int(row["number"]) for row in rows])


def turned(
    connection: sqlite3.Connection,
    branches: Sequence[tuple[str, str]],
    *,
    state: BuildState | None = None,
    limit: int,
) -> list[Build]:
    """Builds with which a branch broke or was mended; what ended last first.

    `branches` are (configured name, branch); the LOOKED newest commits are shared out
    among them. The first verdict of a branch is a turn when it is `failed`.
    """
    share = LOOKED // max(len(branches), 1)
    turns = {
        (int(row["finished_at"] or 0), int(row["number"]))
        for repo, branch in branches
        for row in _turns(connection, repo, branch, share)
        if state in (None, row["state"])
    }
    newest = sorted(turns, reverse=True)[:limit]
    return builds.numbered(connection, [number for _, number in newest])


def _turns(
    connection: sqlite3.Connection, repo: str, branch: str, looked: int
) -> Iterator[sqlite3.Row]:
    rows = connection.execute(
        f"SELECT b.number, b.state, b.finished_at FROM ({_ON_BRANCH}) near "  # noqa: S608 — literals
        "CROSS JOIN builds b ON b.number = near.number ORDER BY near.position DESC",
        {"repo": repo, "branch": branch, "looked": looked},
    ).fetchall()
    verdicts = [row for row in rows if row["state"] in VERDICTS]
    for row, older in pairwise(verdicts):
        if row["state"] != older["state"]:
            yield row
    # What was before the oldest one is known only when there was nothing.
    if len(rows) < looked and verdicts and verdicts[-1]["state"] == BuildState.FAILED:
        yield verdicts[-1]
