"""How each branch stands: its newest verdict, since when it is broken, how it went lately.

The order is that of the branch. A branch is broken while its newest verdict about a
commit (`succeeded` or `failed`) is `failed`: what was our own fault, or was cancelled,
says nothing of the commit.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from ci.history import builds
from ci.models import Build, BuildState

TREND = 30
"""So many finished builds make the trend and the pass rate."""
GOOD = 9
"""So many good builds tell how long one takes, as in history/context.py."""
NEAR = 200
"""Commits among which those are looked for."""
LOOKED = 1000
"""Commits among which the last good one is looked for."""
BRANCHES = 100
"""So many branches of a repository are listed at most."""
VERDICTS = (BuildState.SUCCEEDED, BuildState.FAILED)
RATED = (*VERDICTS, BuildState.ERROR)


@dataclass(frozen=True)
class Finished:
    """One finished build of a branch; `seconds` is None for one that never ran."""

    number: int
    sha: str
    title: str
    state: BuildState
    seconds: float | None
    finished_at: int


@dataclass(frozen=True)
class BranchState:
    """One branch of one repository.

    `last` is the newest finished build that was not skipped, with its targets, and
    `trend` are up to TREND of these, the oldest first. `broken_since` is there while the
    branch is broken: the first failed build after `last_good`. Without a `last_good` it
    never was good, or, when `longer`, not among its LOOKED newest commits. `typical` is
    the median of the seconds that its last good builds took.
    """

    repo: str
    branch: str
    last: Build | None = None
    broken_since: Finished | None = None
    last_good: Finished | None = None
    longer: bool = False
    typical: float | None = None
    trend: Sequence[Finished] = ()

    @property
    def pass_rate(self) -> float | None:
        """How many of the trend's builds that were tried to the end are good, 0 to 1."""
        rated = [one.state for one in self.trend if one.state in RATED]
        if not rated:
            return None
        return rated.count(BuildState.SUCCEEDED) / len(rated)


def branch_state(connection: sqlite3.Connection, repo: str, branch: str) -> BranchState:
    """How the branch stands; `repo` is the configured name."""
    trend: list[Finished] = []
    good: list[Finished] = []
    broken: Finished | None = None
    looked = 0
    for looked, one in enumerate(_finished(connection, repo, branch), 1):
        if len(trend) < TREND:
            trend.append(one)
        if one.state is BuildState.SUCCEEDED:
            good.append(one)
        elif one.state is BuildState.FAILED and not good:
            broken = one
        enough = len(good) >= GOOD or (good and looked >= NEAR)
        if enough and len(trend) == TREND:
            break
    if not trend:
        return BranchState(repo, branch)
    seconds = [one.seconds for one in good[:GOOD] if one.seconds is not None]
    return BranchState(
        repo=repo,
        branch=branch,
        last=builds.get(connection, trend[0].number),
        broken_since=broken,
        last_good=good[0] if broken and good else None,
        longer=not good and looked == LOOKED,
        typical=median(seconds) if seconds else None,
        trend=trend[::-1],
    )


def branches_seen(connection: sqlite3.Connection, repo: str) -> list[str]:
    """The branches on which the repository has builds, by name; at most BRANCHES."""
    rows = connection.execute(
        "WITH RECURSIVE seen (branch) AS ("
        "  SELECT (SELECT min(branch) FROM branch_commits WHERE repository_id = ("
        "    SELECT id FROM repositories WHERE name = :repo)) "
        "  UNION ALL "
        "  SELECT (SELECT min(c.branch) FROM branch_commits c WHERE c.repository_id = ("
        "    SELECT id FROM repositories WHERE name = :repo) AND c.branch > seen.branch) "
        "  FROM seen WHERE seen.branch IS NOT NULL) "
        "SELECT branch FROM seen WHERE branch IS NOT NULL LIMIT :most",
        {"repo": repo, "most": BRANCHES},
    )
    return [str(row["branch"]) for row in rows]


def in_order(
    connection: sqlite3.Connection, repo: str, branch: str, found: Sequence[Build]
) -> list[Build]:
    """The builds of the branch among `found`, that of the newest commit first."""
    rows = connection.execute(
        # Looked up one by one: the index by position has a million of them.
        "SELECT c.build FROM json_each(?) one CROSS JOIN branch_commits c "
        "ON c.repository_id = (SELECT id FROM repositories WHERE name = ?) "
        "AND c.branch = ? AND c.build = one.value ORDER BY c.position DESC",
        (json.dumps([build.number for build in found]), repo, branch),
    )
    by_number = {build.number: build for build in found}
    return [by_number[int(row["build"])] for row in rows]


def _finished(
    connection: sqlite3.Connection, repo: str, branch: str
) -> Iterator[Finished]:
    """The newest commits of the branch that have ended and were not skipped."""
    rows = connection.execute(
        "SELECT b.number, b.sha, b.title, b.state, b.seconds, b.finished_at "
        "FROM branch_commits c INDEXED BY branch_commits_order "
        "CROSS JOIN builds b ON b.number = c.build "
        "AND b.state NOT IN ('queued', 'running', 'skipped') "
        "WHERE c.repository_id = (SELECT id FROM repositories WHERE name = ?) "
        "AND c.branch = ? ORDER BY c.position DESC LIMIT ?",
        (repo, branch, LOOKED),
    )
    for row in rows:
        yield Finished(**{**dict(row), "state": BuildState(row["state"])})
