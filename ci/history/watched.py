"""Watched branches: their heads as the remote last told them, beside what we built.

A head is written down in the transaction that drew the conclusions from it, together
with GitHub's ETag: "unchanged" then means that nothing is left to do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from ci.history import branches

# The head of a branch that is not there (any more), as git and GitHub write it.
GONE = "0" * 40
# How far back a branch's builds are looked through for an ancestor of its new head.
KNOWN = 200
# Pushes between two looks that are followed one by one.
CHAIN = 1000


@dataclass(frozen=True)
class Watched:
    """A branch as the remote last told it; `sha` is GONE once it was deleted."""

    sha: str
    etag: str


@dataclass(frozen=True)
class Standing:
    """What the history knows of a branch; `watched` is None when it was never looked at.

    `newest` is the number of its newest build in branch order, of commit `newest_sha`,
    which `vanished` when the remote did not have it at the time of its build.
    `built` are commits that were not skipped, `on_branch` all of the latest; `waiting`
    are the (number, SHA) of builds that wait and are on no other branch.
    """

    watched: Watched | None
    newest: int | None
    newest_sha: str | None
    built: tuple[str, ...]
    on_branch: frozenset[str]
    waiting: tuple[tuple[int, str], ...]
    pushed_lately: bool
    vanished: bool = False

    @property
    def is_known(self) -> bool:
        return self.watched is not None or self.newest is not None

    @property
    def is_there(self) -> bool:
        """Whether the branch was not known to be gone."""
        return self.watched is None or self.watched.sha != GONE

    @property
    def known(self) -> tuple[str, ...]:
        """Commits below which nothing is missing: the last head seen, then what was built."""
        last = self.watched.sha if self.watched else GONE
        return self.built if last == GONE else (last, *self.built)


@dataclass(frozen=True)
class Unannounced:
    """A head that was found by looking although GitHub should have told of it."""

    repo: str
    branch: str
    sha: str
    seen_at: int


def seen(
    connection: sqlite3.Connection,
    repository: int,
    branch: str,
    head: Watched,
    *,
    at: int,
    unannounced: bool = False,
) -> None:
    """Write down what the remote told; `unannounced` counts for a new head only."""
    connection.execute(
        "INSERT INTO watched_branches (repository_id, branch, sha, etag, seen_at, "
        "  checked_at, unannounced) VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6) "
        "ON CONFLICT (repository_id, branch) DO UPDATE SET "
        "  seen_at = CASE WHEN sha = ?3 THEN seen_at ELSE ?5 END, "
        "  unannounced = CASE WHEN sha = ?3 THEN unannounced ELSE ?6 END, "
        "  sha = ?3, etag = ?4, checked_at = ?5",
        (repository, branch, head.sha, head.etag, at, int(unannounced)),
    )


def find(
    connection: sqlite3.Connection, repository: int, branch: str
) -> Watched | None:
    """The branch as it was last seen, or None."""
    row = connection.execute(
        "SELECT sha, etag FROM watched_branches WHERE repository_id = ? AND branch = ?",
        (repository, branch),
    ).fetchone()
    return None if row is None else Watched(row["sha"], row["etag"])


def newest(
    connection: sqlite3.Connection, repository: int, branch: str
) -> tuple[int, str] | None:
    """(number, SHA) of the branch's newest build in branch order."""
    row = connection.execute(
        "SELECT b.number, b.sha FROM branch_commits c JOIN builds b ON b.number = c.build "
        "WHERE c.repository_id = ? AND c.branch = ? ORDER BY c.position DESC LIMIT 1",
        (repository, branch),
    ).fetchone()
    return None if row is None else (row["number"], row["sha"])


def standing(
    connection: sqlite3.Connection, repository: int, branch: str, lately: int
) -> Standing:
    """What the history knows; `lately` is since when a push is fresh, in ms."""
    rows = connection.execute(
        "SELECT b.number, b.sha, b.state, b.attempt FROM branch_commits c "
        "JOIN builds b ON b.number = c.build WHERE c.repository_id = ? "
        "AND c.branch = ? ORDER BY c.position DESC LIMIT ?",
        (repository, branch, KNOWN),
    ).fetchall()
    top = rows[0] if rows else None
    return Standing(
        watched=find(connection, repository, branch),
        newest=top["number"] if top else None,
        newest_sha=top["sha"] if top else None,
        built=tuple(row["sha"] for row in rows if row["state"] != "skipped"),
        on_branch=frozenset(row["sha"] for row in rows),
        waiting=tuple(branches.only_on(connection, repository, branch)),
        pushed_lately=pushed_since(connection, repository, branch, lately),
        # What is skipped for any other reason was never tried.
        vanished=bool(top and top["state"] == "skipped" and top["attempt"]),
    )


def told(
    connection: sqlite3.Connection, repository: int, branch: str, old: str, new: str
) -> bool:
    """Whether accepted pushes lead from commit to commit, without a gap or a force push.

    Then each of them was told, and what a payload left out is found before its build.
    """
    for _ in range(CHAIN):
        if old == new:
            return True
        row = connection.execute(
            "SELECT after_sha FROM deliveries WHERE repository_id = ? AND ref = ? "
            "AND before_sha = ? AND accepted = 1 AND forced = 0 ORDER BY id DESC LIMIT 1",
            (repository, f"refs/heads/{branch}", old),
        ).fetchone()
        if row is None:
            return False
        old = row["after_sha"]
    return False


def announced(
    connection: sqlite3.Connection, repository: int, branch: str, sha: str
) -> bool:
    """Whether a delivery told that the branch moved to this commit."""
    row = connection.execute(
        "SELECT 1 FROM deliveries WHERE repository_id = ? AND ref = ? "
        "AND after_sha = ? LIMIT 1",
        (repository, f"refs/heads/{branch}", sha),
    ).fetchone()
    return row is not None


def pushed_since(
    connection: sqlite3.Connection, repository: int, branch: str, at: int
) -> bool:
    """Whether a delivery about the branch came after `at`."""
    row = connection.execute(
        "SELECT 1 FROM deliveries WHERE received_at > ? AND repository_id = ? "
        "AND ref = ? LIMIT 1",
        (at, repository, f"refs/heads/{branch}"),
    ).fetchone()
    return row is not None


def heard(connection: sqlite3.Connection) -> None:
    """Take back the alarm for repositories of which GitHub has told something since."""
    connection.execute(
        "UPDATE watched_branches SET unannounced = 0 WHERE unannounced = 1 "
        "AND EXISTS (SELECT 1 FROM deliveries d "
        "  WHERE d.repository_id = watched_branches.repository_id "
        "  AND d.event = 'push' AND d.received_at >= watched_branches.seen_at)"
    )


def unannounced(connection: sqlite3.Connection) -> list[Unannounced]:
    """Heads that nobody told of, nor of anything later, oldest first."""
    rows: Sequence[sqlite3.Row] = connection.execute(
        "SELECT r.name, w.branch, w.sha, w.seen_at FROM watched_branches w "
        "JOIN repositories r ON r.id = w.repository_id WHERE w.unannounced = 1 "
        "ORDER BY w.seen_at"
    ).fetchall()
    return [
        Unannounced(row["name"], row["branch"], row["sha"], row["seen_at"])
        for row in rows
    ]
