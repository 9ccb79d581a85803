"""What people were told, and messages that wait to be sent.

`told` says in which state people know a branch, or a check of the service itself, to be.
A message is queued in the transaction that changes it, so none is lost and none is made
twice; sending is tried until it is known to have worked (at least once).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ci.errors import HistoryError
from ci.history import builds
from ci.models import Build, BuildState

State = Literal["good", "broken"]
Kind = Literal["broken", "fixed", "trouble", "well"]

# `repository_id` of what is no branch but a check.
SERVICE = 0
AT_ONCE = 50
KEPT_MS = 30 * 86_400_000
# What is due later than this was planned by a clock that has been put right.
LONGEST_WAIT_MS = 2 * 3_600_000
SUPERSEDED = "superseded while being sent"


@dataclass(frozen=True)
class Subject:
    """What a message is about: a branch of a repository (our id), or a check by name."""

    repository: int
    name: str


@dataclass(frozen=True)
class Told:
    """The state that was settled last, since when, and by which build."""

    state: State
    build: int | None
    since: int


@dataclass(frozen=True)
class News:
    """A branch whose newest verdict is another than the one that was settled last."""

    subject: Subject
    build: Build
    told: Told | None

    @property
    def state(self) -> State:
        return "good" if self.build.state is BuildState.SUCCEEDED else "broken"


@dataclass(frozen=True)
class Draft:
    """A message to be queued."""

    kind: Kind
    title: str
    body: str


@dataclass(frozen=True)
class Notice:
    """A message that waits; `reached` are marks of the addresses that have it already."""

    id: int
    kind: Kind
    title: str
    body: str
    queued_at: int
    tries: int
    reached: tuple[str, ...]
    error: str


def news(connection: sqlite3.Connection, repo: str, branch: str) -> News | None:
    """What the branch's newest verdict changes; None when it changes nothing.

    `error`, cancelled and skipped say nothing of a commit. A build that is older than the
    one settled last says nothing of the branch: that one is being built again.
    """
    row = connection.execute(
        "SELECT c.build, b.state, r.id, c.position, t.state AS told, t.since, "
        "  t.build AS settled, (SELECT s.position FROM branch_commits s "
        "    WHERE s.repository_id = r.id AND s.branch = c.branch "
        "    AND s.build = t.build) AS told_at "
        "FROM repositories r JOIN branch_commits c ON c.repository_id = r.id "
        "JOIN builds b ON b.number = c.build "
        "LEFT JOIN told t ON t.repository_id = r.id AND t.branch = c.branch "
        "WHERE r.name = ? AND c.branch = ? AND b.state IN ('succeeded', 'failed') "
        "ORDER BY c.position DESC LIMIT 1",
        (repo, branch),
    ).fetchone()
    if row is None or (row["told_at"] or 0) > row["position"]:
        return None
    told = None
    if row["told"] is not None:
        told = Told(row["told"], row["settled"], row["since"])
    build = builds.get(connection, row["build"])
    if build is None:
        raise HistoryError(f"the branch {branch} names a build that is gone")
    found = News(Subject(row["id"], branch), build, told)
    same = told is not None and (told.state, told.build) == (found.state, build.number)
    return None if same else found


def changed(
    connection: sqlite3.Connection, watched: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Those of the (repository, branch) that have news."""
    return [pair for pair in watched if news(connection, *pair) is not None]


def settle(
    connection: sqlite3.Connection,
    subject: Subject,
    state: State,
    *,
    at: int,
    build: int | None = None,
    draft: Draft | None = None,
) -> None:
    """Note the state; where it is another than people know of, queue the draft.

    That a branch is good is no news where nothing was known. A message that nobody can
    have had yet is withdrawn by its opposite, and neither is sent.
    """
    before, key = _told(connection, subject), (subject.repository, subject.name)
    connection.execute(
        "INSERT INTO told (repository_id, branch, state, build, since) "
        "VALUES (?, ?, ?, ?, ?) ON CONFLICT (repository_id, branch) DO UPDATE SET "
        "since = CASE WHEN state = excluded.state THEN since ELSE excluded.since END, "
        "state = excluded.state, build = excluded.build",
        (*key, state, build, at),
    )
    if state == (before or "good"):
        return
    if not _withdrawn(connection, subject, at) and draft is not None:
        connection.execute(
            "INSERT INTO notices (repository_id, branch, kind, title, body, queued_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (*key, draft.kind, draft.title, draft.body, at),
        )


def _told(connection: sqlite3.Connection, subject: Subject) -> str | None:
    row = connection.execute(
        "SELECT state FROM told WHERE repository_id = ? AND branch = ?",
        (subject.repository, subject.name),
    ).fetchone()
    return None if row is None else str(row["state"])


def _withdrawn(connection: sqlite3.Connection, subject: Subject, at: int) -> bool:
    """Take back what waits about the subject; whether nobody has had it for certain."""
    key = {"repository": subject.repository, "name": subject.name, "at": at}
    waits = "repository_id = :repository AND branch = :name AND sent_at IS NULL"
    # A try of which no end is written may have arrived.
    removed = connection.execute(
        f"DELETE FROM notices WHERE {waits} AND reached = '[]' "  # noqa: S608 — literals
        "AND (tries = 0 OR error <> '')",
        key,
    )
    connection.execute(
        f"UPDATE notices SET sent_at = :at, error = '{SUPERSEDED}' WHERE {waits}",  # noqa: S608 — literals
        key,
    )
    return removed.rowcount > 0


def troubles(connection: sqlite3.Connection) -> frozenset[str]:
    """The checks that people know to be in trouble."""
    rows = connection.execute(
        "SELECT branch FROM told WHERE repository_id = ? AND state = 'broken'",
        (SERVICE,),
    )
    return frozenset(row["branch"] for row in rows)


def due(connection: sqlite3.Connection, now: int) -> list[Notice]:
    """Messages that may be tried now, oldest first."""
    rows = connection.execute(
        "SELECT * FROM notices WHERE sent_at IS NULL "
        "AND (next_try_at <= ?1 OR next_try_at > ?1 + ?2) ORDER BY id LIMIT ?3",
        (now, LONGEST_WAIT_MS, AT_ONCE),
    )
    return [_notice(row) for row in rows]


def waiting(connection: sqlite3.Connection) -> list[Notice]:
    """Messages that were tried in vain and wait for the next try, oldest first."""
    rows = connection.execute(
        "SELECT * FROM notices WHERE sent_at IS NULL AND error <> '' ORDER BY id LIMIT ?",
        (AT_ONCE,),
    )
    return [_notice(row) for row in rows]


def next_due_at(connection: sqlite3.Connection) -> int | None:
    """When the next message is due (milliseconds), None when none waits."""
    row = connection.execute(
        "SELECT min(next_try_at) AS at FROM notices WHERE sent_at IS NULL"
    ).fetchone()
    return None if row["at"] is None else int(row["at"])


def sent_since(connection: sqlite3.Connection, since: int, until: int) -> int:
    """How many messages went after `since`; several in one have gone at one moment."""
    row = connection.execute(
        "SELECT count(DISTINCT sent_at) AS n FROM notices "
        "WHERE sent_at > ? AND sent_at <= ? AND error = ''",
        (since, until),
    ).fetchone()
    return int(row["n"])


def begin_notices(connection: sqlite3.Connection, ids: Collection[int]) -> None:
    """A try begins: until its end is written it may have arrived."""
    connection.executemany(
        "UPDATE notices SET tries = tries + 1, error = '' WHERE id = ?",
        [(each,) for each in ids],
    )


def notices_sent(
    connection: sqlite3.Connection, ids: Collection[int], *, at: int, error: str = ""
) -> None:
    """They are done: sent, or given up with a reason. What is long done is forgotten."""
    connection.executemany(
        "UPDATE notices SET sent_at = ?, error = ? WHERE id = ?",
        [(at, error, each) for each in ids],
    )
    connection.execute("DELETE FROM notices WHERE sent_at < ?", (at - KEPT_MS,))


def notices_failed(
    connection: sqlite3.Connection,
    ids: Collection[int],
    *,
    error: str,
    reached: Collection[str],
    next_try_at: int,
) -> None:
    """Some address did not get them: those in `reached` are spared at the next try."""
    connection.executemany(
        "UPDATE notices SET error = ?, reached = ?, next_try_at = ? WHERE id = ?",
        [(error, json.dumps(sorted(reached)), next_try_at, each) for each in ids],
    )


def hurry_notices(connection: sqlite3.Connection, now: int) -> None:
    """Make everything due: the addresses have changed."""
    connection.execute(
        "UPDATE notices SET next_try_at = ? WHERE sent_at IS NULL", (now,)
    )


def _notice(row: sqlite3.Row) -> Notice:
    return Notice(
        id=row["id"],
        kind=row["kind"],
        title=row["title"],
        body=row["body"],
        queued_at=row["queued_at"],
        tries=row["tries"],
        reached=tuple(json.loads(row["reached"])),
        error=row["error"],
    )
