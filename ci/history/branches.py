"""Branch order: which commit of a branch is newer, whatever order the news came in.

A higher position is a newer commit. Deliveries may overtake each other, so a position
is first a good guess (the chain of before and after), and is put right when git's own
order is known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ci.history import bulk


def place(
    connection: sqlite3.Connection,
    repository: int,
    branch: str,
    builds: Sequence[int],
    *,
    successor: int | None = None,
    below: int | None = None,
    fresh: bool = False,
) -> None:
    """Put `builds` (oldest first) on top of the branch, or just below `successor`.

    `successor` is a delivery that continues where these commits end and came earlier.
    A build that is on the branch already moves: after a force push to an old commit
    that commit is the newest again. `fresh` builds are on no branch yet. With `below`,
    a build of the branch, only what is new to it is put there, and nothing moves.
    """
    if below is not None:
        builds = [build for build in builds if not _on(connection, branch, build)]
    elif not fresh:
        connection.executemany(
            "DELETE FROM branch_commits "
            "WHERE repository_id = ? AND branch = ? AND build = ?",
            [(repository, branch, build) for build in builds],
        )
    first = _place_below(connection, repository, branch, successor, below)
    if first is None:
        connection.executemany(
            "INSERT INTO branch_commits (repository_id, branch, position, build) "
            "SELECT ?1, ?2, coalesce(max(position), 0) + 1, ?3 FROM branch_commits "
            "WHERE repository_id = ?1 AND branch = ?2",
            [(repository, branch, build) for build in builds],
        )
        return
    connection.execute(
        "UPDATE branch_commits SET position = position + ? "
        "WHERE repository_id = ? AND branch = ? AND position >= ?",
        (len(builds), repository, branch, first),
    )
    connection.executemany(
        "INSERT INTO branch_commits (repository_id, branch, position, build) "
        "VALUES (?, ?, ?, ?)",
        [
            (repository, branch, first + offset, build)
            for offset, build in enumerate(builds)
        ],
    )


def place_on_top(
    connection: sqlite3.Connection, placed: Sequence[tuple[int, str, int]]
) -> None:
    """Put builds that are on no branch yet on top, one after the other.

    `placed` are (repository, branch, build).
    """
    tops: dict[tuple[int, str], int] = {}
    found = []
    for repository, branch, build in placed:
        top = tops.get((repository, branch))
        if top is None:
            top = connection.execute(
                "SELECT coalesce(max(position), 0) FROM branch_commits "
                "WHERE repository_id = ? AND branch = ?",
                (repository, branch),
            ).fetchone()[0]
        tops[repository, branch] = top = top + 1
        found.append((repository, branch, top, build))
    bulk.insert(
        connection, "branch_commits (repository_id, branch, position, build)", found
    )


def _place_below(
    connection: sqlite3.Connection,
    repository: int,
    branch: str,
    successor: int | None,
    below: int | None,
) -> int | None:
    """The lowest position of the build `below`, or of the builds of `successor`.

    None where there is neither on the branch: then the top is meant.
    """
    if below is not None:
        which, value = "c.build = ?", below
    elif successor is not None:
        which, value = "b.delivery_id = ?", successor
    else:
        return None
    row = connection.execute(
        "SELECT min(c.position) AS first FROM branch_commits c "  # noqa: S608 — literals
        "JOIN builds b ON b.number = c.build "
        f"WHERE c.repository_id = ? AND c.branch = ? AND {which}",
        (repository, branch, value),
    ).fetchone()
    return None if row["first"] is None else int(row["first"])


def _on(connection: sqlite3.Connection, branch: str, build: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM branch_commits WHERE branch = ? AND build = ?", (branch, build)
    ).fetchone()
    return row is not None


def ahead(
    connection: sqlite3.Connection,
    repository: int,
    branch: str | None,
    old: str | None,
    new: str | None,
) -> int | None:
    """The build of commit `new` when it is newer on the branch than that of `old` already.

    A push from `old` to `new` then tells nothing of their order that is not known.
    """
    row = connection.execute(
        "SELECT n.build FROM branch_commits n JOIN branch_commits o "
        "ON o.repository_id = n.repository_id AND o.branch = n.branch "
        "AND o.position < n.position "
        "WHERE n.repository_id = ?1 AND n.branch = ?2 AND n.build = "
        "  (SELECT number FROM builds WHERE repository_id = ?1 AND sha = ?4) "
        "AND o.build = (SELECT number FROM builds WHERE repository_id = ?1 AND sha = ?3)",
        (repository, branch, old, new),
    ).fetchone()
    return None if row is None else int(row["build"])


def sort(
    connection: sqlite3.Connection, repository: int, branch: str, shas: Sequence[str]
) -> None:
    """Make the branch agree with git about `shas` (oldest first).

    Only the commits named change places, among the places they hold already.
    """
    rank = {sha: index for index, sha in enumerate(shas)}
    rows = [
        row
        for row in connection.execute(
            "SELECT c.build, c.position, b.sha FROM branch_commits c "
            "JOIN builds b ON b.number = c.build "
            "WHERE c.repository_id = ? AND c.branch = ? "
            "ORDER BY c.position DESC LIMIT ?",
            (repository, branch, 4 * len(shas) + 100),
        )
        if row["sha"] in rank
    ]
    places = sorted(row["position"] for row in rows)
    ordered = sorted(rows, key=lambda row: rank[row["sha"]])
    connection.executemany(
        "UPDATE branch_commits SET position = ? "
        "WHERE repository_id = ? AND branch = ? AND build = ?",
        [
            (place, repository, branch, row["build"])
            for place, row in zip(places, ordered, strict=True)
            if place != row["position"]
        ],
    )


def queued(
    connection: sqlite3.Connection, repository: int, branch: str
) -> list[tuple[int, str]]:
    """(number, sha) of the branch's builds that wait, newest first."""
    rows = connection.execute(
        # CROSS JOIN: few builds wait, but a branch can be long.
        "SELECT b.number, b.sha FROM builds b "
        "CROSS JOIN branch_commits c ON c.build = b.number "
        "WHERE b.state = 'queued' AND b.repository_id = ?1 "
        "AND c.repository_id = ?1 AND c.branch = ?2 ORDER BY c.position DESC",
        (repository, branch),
    )
    return [(row["number"], row["sha"]) for row in rows]


def queued_below(
    connection: sqlite3.Connection, repository: int, branch: str, build: int
) -> list[tuple[int, str]]:
    """(number, sha) of waiting builds older than `build` that are on no other branch."""
    rows = connection.execute(
        "SELECT b.number, b.sha FROM builds b "
        "CROSS JOIN branch_commits c ON c.build = b.number "
        "WHERE b.state = 'queued' AND b.repository_id = ?1 "
        "AND c.repository_id = ?1 AND c.branch = ?2 "
        "AND c.position < (SELECT position FROM branch_commits "
        "  WHERE repository_id = ?1 AND branch = ?2 AND build = ?3) "
        "AND NOT EXISTS (SELECT 1 FROM branch_commits o "
        "  WHERE o.build = b.number AND o.branch <> ?2) "
        "ORDER BY c.position DESC",
        (repository, branch, build),
    )
    return [(row["number"], row["sha"]) for row in rows]


def only_on(
    connection: sqlite3.Connection, repository: int, branch: str
) -> list[tuple[int, str]]:
    """(number, sha) of waiting builds that are on this branch and no other, newest first."""
    rows = connection.execute(
        "SELECT b.number, b.sha FROM builds b "
        "CROSS JOIN branch_commits c ON c.build = b.number "
        "WHERE b.state = 'queued' AND b.repository_id = ?1 "
        "AND c.repository_id = ?1 AND c.branch = ?2 "
        "AND NOT EXISTS (SELECT 1 FROM branch_commits o "
        "  WHERE o.build = b.number AND o.branch <> ?2) "
        "ORDER BY c.position DESC",
        (repository, branch),
    )
    return [(row["number"], row["sha"]) for row in rows]


def pushed_away(connection: sqlite3.Connection, build: int) -> bool:
    """Whether a force push of its branch came after the build was last asked for.

    Not for the present head itself, nor for a commit that is on another branch too.
    """
    row = connection.execute(
        "SELECT 1 FROM builds b JOIN deliveries d "
        "ON d.repository_id = b.repository_id AND d.ref = 'refs/heads/' || b.branch "
        "WHERE b.number = ?1 AND d.accepted = 1 AND d.forced = 1 "
        "AND d.received_at >= b.queued_at AND d.after_sha <> b.sha "
        "AND NOT EXISTS (SELECT 1 FROM branch_commits o "
        "  WHERE o.build = b.number AND o.branch <> b.branch) LIMIT 1",
        (build,),
    ).fetchone()
    return row is not None


def gap_begins(connection: sqlite3.Connection, build: int, before: str) -> str:
    """Where what was told of the branch ends below the push that `build` is head of.

    That is `before` when it has a build. Else deliveries were lost, and it is the newest
    commit below that came with another push or trigger; `before` when there is none.
    """
    head = connection.execute(
        "SELECT b.repository_id, b.branch, b.delivery_id, c.position, EXISTS ("
        "  SELECT 1 FROM builds told "
        "  WHERE told.repository_id = b.repository_id AND told.sha = ?2) AS told "
        "FROM builds b JOIN branch_commits c ON c.repository_id = b.repository_id "
        "  AND c.branch = b.branch AND c.build = b.number WHERE b.number = ?1",
        (build, before),
    ).fetchone()
    if head is None or head["told"]:
        return before
    row = connection.execute(
        "SELECT b.sha FROM branch_commits c JOIN builds b ON b.number = c.build "
        "WHERE c.repository_id = ? AND c.branch = ? AND c.position < ? "
        "AND b.delivery_id IS NOT ? ORDER BY c.position DESC LIMIT 1",
        (
            head["repository_id"],
            head["branch"],
            head["position"],
            head["delivery_id"],
        ),
    ).fetchone()
    return before if row is None else str(row["sha"])
