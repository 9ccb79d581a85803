"""Reading builds: one, a page of them, the newest of a branch. Never counts rows."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence

from ci.models import Build, BuildState, Target

_SELECT = (
    "SELECT b.*, r.name AS repo, "
    "EXISTS (SELECT 1 FROM pins p WHERE p.build = b.number) AS pinned FROM builds b "
    "JOIN repositories r ON r.id = b.repository_id "
)
_ON_BRANCH = "JOIN branch_commits c ON c.build = b.number "
SEARCHED = 10_000
"""So many numbers a search looks through before it answers; the next page goes on."""


def get(connection: sqlite3.Connection, number: int) -> Build | None:
    """One build with its targets, or None."""
    found = _builds(
        connection, connection.execute(_SELECT + "WHERE b.number = ?", (number,))
    )
    return found[0] if found else None


def find(connection: sqlite3.Connection, repo: str, sha: str) -> Build | None:
    """The build of a commit of a repository (configured name, full SHA), or None."""
    found = _builds(
        connection,
        connection.execute(_SELECT + "WHERE r.name = ? AND b.sha = ?", (repo, sha)),
    )
    return found[0] if found else None


def of_commit(connection: sqlite3.Connection, prefix: str) -> list[Build]:
    """Builds whose SHA begins with `prefix` (lower-case hex), newest first."""
    rows = connection.execute(
        _SELECT + "WHERE b.repository_id IN (SELECT id FROM repositories) "  # noqa: S608 — literals
        "AND b.sha >= ? AND b.sha < ? ORDER BY b.number DESC LIMIT 100",
        (prefix, prefix + "g"),
    )
    return _builds(connection, rows)


def page(
    connection: sqlite3.Connection,
    *,
    repo: str | None = None,
    branch: str | None = None,
    state: BuildState | None = None,
    before: int | None = None,
    limit: int = 20,
) -> list[Build]:
    """Builds by falling number, below `before`; with `branch`, those on that branch."""
    chosen, order, values = _chosen(repo, branch, state, before)
    rows = connection.execute(
        f"{_SELECT}{chosen} ORDER BY {order} DESC LIMIT ?", (*values, limit)
    )
    return _builds(connection, rows)


def search(
    connection: sqlite3.Connection,
    words: str,
    *,
    repo: str | None = None,
    branch: str | None = None,
    state: BuildState | None = None,
    before: int | None = None,
    limit: int = 20,
    most: int = SEARCHED,
) -> tuple[list[Build], int | None, int]:
    """Builds of `page` with `words` in their title, SHA or author; ASCII in either case.

    Returns at most `limit` of them, the number below which the rest begins (None: there
    is no rest), and the number down to which was looked, `most` numbers at most.
    """
    ends = connection.execute(
        "SELECT coalesce((SELECT min(number) FROM builds), 1), "
        "coalesce((SELECT max(number) FROM builds), 0)"
    ).fetchone()
    first, last = int(ends[0]), int(ends[1])
    above = min(before or last + 1, last + 1)
    lowest = max(above - most, first)
    chosen, order, values = _chosen(repo, branch, state, above)
    escaped = re.sub(r"([\\%_])", r"\\\1", words)
    rows = connection.execute(
        f"SELECT b.number FROM builds b {chosen} AND {order} >= ? "  # noqa: S608 — literals
        "AND (b.title LIKE ? ESCAPE '\\' OR b.sha LIKE ? ESCAPE '\\' "
        f"OR b.author LIKE ? ESCAPE '\\') ORDER BY {order} DESC LIMIT ?",
        (*values, lowest, *[f"%{escaped}%"] * 3, limit + 1),
    )
    met = [int(row["number"]) for row in rows]
    if len(met) > limit:
        return numbered(connection, met[:limit]), met[limit - 1], met[limit - 1]
    return numbered(connection, met), lowest if lowest > first else None, lowest


def numbered(connection: sqlite3.Connection, numbers: Sequence[int]) -> list[Build]:
    """The builds of these numbers that there are, in this order."""
    marks = ",".join("?" * len(numbers))
    rows = connection.execute(_SELECT + f"WHERE b.number IN ({marks})", list(numbers))
    found = {build.number: build for build in _builds(connection, rows)}
    return [found[number] for number in numbers if number in found]


def _chosen(
    repo: str | None, branch: str | None, state: BuildState | None, before: int | None
) -> tuple[str, str, list[object]]:
    """The join and the conditions for a page, the column of its order, and the values."""
    conditions: list[tuple[str, object]] = []
    join = ""
    # A branch's rows are in the order of the page already; but where a state is rarer
    # than a branch (all but one are), its own index is the shorter way.
    if branch is not None and state in (None, BuildState.SUCCEEDED):
        join = "JOIN branch_commits c ON c.build = b.number "
        conditions.append(("c.branch = ?", branch))
    elif branch is not None:
        conditions.append(
            (
                "EXISTS (SELECT 1 FROM branch_commits c "
                "WHERE c.build = b.number AND c.branch = ?)",
                branch,
            )
        )
    if repo is not None:
        column = "c.repository_id" if join else "b.repository_id"
        conditions.append(
            (column + " = (SELECT id FROM repositories WHERE name = ?)", repo)  # noqa: S608 — literals
        )
    if state is not None:
        conditions.append(("b.state = ?", state))
    order = "c.build" if join else "b.number"
    if before is not None:
        conditions.append((f"{order} < ?", before))
    where = " AND ".join(condition for condition, _ in conditions) or "1"
    return f"{join}WHERE {where}", order, [value for _, value in conditions]


def newest(connection: sqlite3.Connection, repo: str, branch: str) -> Build | None:
    """The build of the newest commit of a branch, in branch order."""
    return _newest(connection, repo, branch, "1")


def newest_finished(
    connection: sqlite3.Connection, repo: str, branch: str
) -> Build | None:
    """The newest commit of a branch that has a verdict; skipped ones have none."""
    return _newest(
        connection, repo, branch, "b.state NOT IN ('queued', 'running', 'skipped')"
    )


def _newest(
    connection: sqlite3.Connection, repo: str, branch: str, condition: str
) -> Build | None:
    rows = connection.execute(
        f"{_SELECT}{_ON_BRANCH} WHERE c.repository_id = r.id AND r.name = ? "
        f"AND c.branch = ? AND {condition} ORDER BY c.position DESC LIMIT 1",
        (repo, branch),
    )
    found = _builds(connection, rows)
    return found[0] if found else None


def running(
    connection: sqlite3.Connection, repo: str | None = None, branch: str | None = None
) -> list[Build]:
    """Builds that run now, the longest running first."""
    return _live(connection, BuildState.RUNNING, repo, branch)


def queued(
    connection: sqlite3.Connection,
    repo: str | None = None,
    branch: str | None = None,
    limit: int = 100,
) -> list[Build]:
    """Builds that wait, by number; at most `limit`."""
    return _live(connection, BuildState.QUEUED, repo, branch, limit)


def _live(
    connection: sqlite3.Connection,
    state: BuildState,
    repo: str | None,
    branch: str | None,
    limit: int = 100,
) -> list[Build]:
    rows = connection.execute(
        _SELECT + "WHERE b.state = ?1 AND (?2 IS NULL OR r.name = ?2) "
        "AND (?3 IS NULL OR b.branch = ?3) ORDER BY b.number LIMIT ?4",
        (state, repo, branch, limit),
    )
    return _builds(connection, rows)


def last_running_or_finished(connection: sqlite3.Connection) -> Build | None:
    """What a person means by "the log": the running build, else the last one that ran."""
    row = connection.execute(
        "SELECT number FROM builds WHERE state = 'running' ORDER BY number DESC LIMIT 1"
    ).fetchone()
    if row is not None:
        return get(connection, row["number"])
    row = connection.execute(
        "SELECT build FROM attempts WHERE finished_at IS NOT NULL "
        "ORDER BY build DESC LIMIT 1"
    ).fetchone()
    return None if row is None else get(connection, row["build"])


def last_success(
    connection: sqlite3.Connection, repo: str, branch: str, before: int
) -> Build | None:
    """The newest good build below build `before` in the order of the branch."""
    return _before(connection, repo, branch, before, "b.state = 'succeeded'", "DESC")


def broken_since(connection: sqlite3.Connection, number: int) -> Build | None:
    """The first failed build after the branch's last good one; None when `number` is good.

    May be `number` itself: then this commit broke the branch.
    """
    build = get(connection, number)
    if build is None or build.state is not BuildState.FAILED or build.branch is None:
        return None
    good = last_success(connection, build.repo, build.branch, number)
    rows = connection.execute(
        f"{_SELECT}{_ON_BRANCH} WHERE c.repository_id = r.id AND r.name = ?1 "  # noqa: S608 — literals
        "AND c.branch = ?2 AND b.state = 'failed' AND c.position > coalesce(("
        "  SELECT position FROM branch_commits WHERE repository_id = r.id "
        "  AND branch = ?2 AND build = ?3), 0) ORDER BY c.position LIMIT 1",
        (build.repo, build.branch, good.number if good else None),
    )
    found = _builds(connection, rows)
    return found[0] if found else None


def _before(
    connection: sqlite3.Connection,
    repo: str,
    branch: str,
    before: int,
    condition: str,
    direction: str,
) -> Build | None:
    rows = connection.execute(
        f"{_SELECT}{_ON_BRANCH} WHERE c.repository_id = r.id AND r.name = ?1 "  # noqa: S608 — literals
        f"AND c.branch = ?2 AND {condition} AND c.position < ("
        "  SELECT position FROM branch_commits WHERE repository_id = r.id "
        f"  AND branch = ?2 AND build = ?3) ORDER BY c.position {direction} LIMIT 1",
        (repo, branch, before),
    )
    found = _builds(connection, rows)
    return found[0] if found else None


def counts(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """(repository, state) -> how many builds, kept by triggers."""
    rows = connection.execute(
        "SELECT r.name, n.state, n.n FROM build_counts n "
        "JOIN repositories r ON r.id = n.repository_id"
    )
    return {(row["name"], row["state"]): int(row["n"]) for row in rows}


def _builds(connection: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> list[Build]:
    found = list(rows)
    targets = _targets(connection, [row["number"] for row in found])
    return [_build(row, targets.get(row["number"], ())) for row in found]


def _targets(
    connection: sqlite3.Connection, numbers: list[int]
) -> dict[int, tuple[Target, ...]]:
    marks = ",".join("?" * len(numbers))
    rows = connection.execute(
        f"SELECT * FROM targets WHERE build IN ({marks}) ORDER BY build, position",  # noqa: S608 — question marks
        numbers,
    )
    found: dict[int, list[Target]] = {}
    for row in rows:
        target = Target(
            name=row["name"],
            state=BuildState(row["state"]),
            seconds=row["seconds"],
            error=row["error"],
            outputs=json.loads(row["outputs"]),
            derivation=row["derivation"],
        )
        found.setdefault(row["build"], []).append(target)
    return {number: tuple(targets) for number, targets in found.items()}


def _build(row: sqlite3.Row, targets: tuple[Target, ...]) -> Build:
    return Build(
        number=row["number"],
        repo=row["repo"],
        branch=row["branch"],
        sha=row["sha"],
        title=row["title"],
        author=row["author"],
        state=BuildState(row["state"]),
        cause=row["cause"],
        attempt=row["attempt"],
        queued_at=row["queued_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        seconds=row["seconds"],
        summary=row["summary"],
        targets=targets,
        requested_targets=tuple(json.loads(row["requested_targets"])),
        pinned=bool(row["pinned"]),
    )
