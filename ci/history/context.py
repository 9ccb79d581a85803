"""A build among its neighbours: what was good before it, since when its branch is broken.

The order is that of the branch, where a higher position is a newer commit, not that of
the numbers. Everything is read along an index, a bounded way at first: a page asks this
of a history with a million builds.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from statistics import median

from ci.history import builds
from ci.models import Build, BuildState

GOOD = 9
"""So many good builds tell how long one takes."""
NEAR = 1000
"""Commits looked through first; a branch without a good one among them is rare."""
RARE = 2000
"""Up to so many good builds of a repository are looked through one by one."""

_BRANCH = (
    "FROM branch_commits c WHERE c.repository_id = :repository AND c.branch = :branch "
)


@dataclass(frozen=True)
class Around:
    """Neighbours of a build on its branch; a build on no branch has none.

    `last_good`: the newest good build of an older commit. `broken_since`: the first
    failed build after that, when this one has failed; may be this one itself. `older`,
    `newer`: numbers of the neighbours. `typical`: the median of the seconds that the
    last good builds before this one took; None when there was none.
    """

    last_good: Build | None = None
    broken_since: Build | None = None
    older: int | None = None
    newer: int | None = None
    typical: float | None = None


NOWHERE = Around()


def around(connection: sqlite3.Connection, number: int) -> Around:
    """The neighbours of build `number`; NOWHERE for one that is on no branch."""
    row = connection.execute(
        "SELECT b.repository_id AS repository, b.branch, b.state, c.position "
        "FROM builds b JOIN branch_commits c ON c.repository_id = b.repository_id "
        "AND c.branch = b.branch AND c.build = b.number WHERE b.number = ?",
        (number,),
    ).fetchone()
    if row is None:
        return NOWHERE
    place = dict(row)
    good = _good(connection, place)
    since = None
    if row["state"] == BuildState.FAILED:
        since = _first_failed(connection, place, good[0][0] if good else None)
    seconds = [took for _, took in good if took is not None]
    return Around(
        last_good=builds.get(connection, good[0][0]) if good else None,
        broken_since=None if since is None else builds.get(connection, since),
        older=_one(
            connection, "c.position < :position ORDER BY c.position DESC", place
        ),
        newer=_one(connection, "c.position > :position ORDER BY c.position", place),
        typical=median(seconds) if seconds else None,
    )


def nearest(connection: sqlite3.Connection, number: int) -> list[int]:
    """The numbers of the builds next below and above one that is not there."""
    rows = connection.execute(
        "SELECT max(number) AS n FROM builds WHERE number < :n "
        "UNION ALL SELECT min(number) FROM builds WHERE number > :n",
        {"n": number},
    )
    return [row["n"] for row in rows if row["n"] is not None]


def _good(
    connection: sqlite3.Connection, place: dict[str, object]
) -> list[tuple[int, float | None]]:
    """(number, seconds) of good builds of older commits, the newest first, at most GOOD."""
    rows = connection.execute(
        "SELECT b.number, b.seconds FROM ("  # noqa: S608 — literals
        f"SELECT c.build, c.position {_BRANCH} AND c.position < :position "
        "ORDER BY c.position DESC LIMIT :near) near "
        "CROSS JOIN builds b ON b.number = near.build AND b.state = 'succeeded' "
        "ORDER BY near.position DESC LIMIT :good",
        {**place, "near": NEAR, "good": GOOD},
    )
    return [(row["number"], row["seconds"]) for row in rows] or _far(connection, place)


def _far(
    connection: sqlite3.Connection, place: dict[str, object]
) -> list[tuple[int, float | None]]:
    """The same where nothing near is good: the last one alone, along the shorter index."""
    row = connection.execute(
        "SELECT n FROM build_counts WHERE repository_id = :repository "
        "AND state = 'succeeded'",
        place,
    ).fetchone()
    if row is None or row["n"] == 0:
        return []
    if row["n"] <= RARE:
        tables = (
            "builds b INDEXED BY builds_state_of CROSS JOIN branch_commits c "
            "ON c.repository_id = b.repository_id AND c.branch = :branch "
            "AND c.build = b.number"
        )
    else:
        tables = (
            "branch_commits c INDEXED BY branch_commits_order "
            "CROSS JOIN builds b ON b.number = c.build"
        )
    found = connection.execute(
        f"SELECT b.number, b.seconds FROM {tables} "  # noqa: S608 — literals
        "WHERE b.state = 'succeeded' AND b.repository_id = :repository "
        "AND c.repository_id = :repository AND c.branch = :branch "
        "AND c.position < :position ORDER BY c.position DESC LIMIT 1",
        place,
    )
    return [(row["number"], row["seconds"]) for row in found]


def _first_failed(
    connection: sqlite3.Connection, place: dict[str, object], good: int | None
) -> int | None:
    """The oldest failed commit after build `good`, up to the one at `place`."""
    row = connection.execute(
        "SELECT c.build FROM branch_commits c INDEXED BY branch_commits_order "
        "CROSS JOIN builds b ON b.number = c.build AND b.state = 'failed' "
        "WHERE c.repository_id = :repository AND c.branch = :branch "
        "AND c.position <= :position AND c.position > coalesce(("
        "  SELECT position FROM branch_commits WHERE repository_id = :repository "
        "  AND branch = :branch AND build = :good), -9223372036854775808) "
        "ORDER BY c.position LIMIT 1",
        {**place, "good": good},
    ).fetchone()
    return None if row is None else int(row["build"])


def _one(
    connection: sqlite3.Connection, condition: str, place: dict[str, object]
) -> int | None:
    row = connection.execute(
        f"SELECT c.build {_BRANCH} AND {condition} LIMIT 1",
        place,
    ).fetchone()
    return None if row is None else int(row["build"])
