"""The outbox: commit statuses that GitHub must still be told, in order.

A key is a build (one commit of one repository) and a context, whose case GitHub
ignores. Of one key the oldest open item goes first, and nothing overtakes it. A pending
that was never tried is forgotten when something newer is queued; one that was tried may
have arrived although the reply was lost, so it is closed but remembered. Builds with the
cause `update` have none: GitHub does not know their commits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ci.errors import HistoryError
from ci.history import bulk, target_statuses
from ci.models import BuildState, Cause, StatusState, status_state

# Milliseconds. What is due still later was planned by a clock that has been put right.
LONGEST_WAIT = 3700 * 1000
MOST_DEAD = 100

_KEY = "build = :build AND context = :context COLLATE NOCASE"
_OPEN = "sent_at IS NULL AND dead = 0"
_DUE = "(next_try_at <= :now OR next_try_at > :now + :longest)"
_FIRST_OF_ITS_KEY = (
    "NOT EXISTS (SELECT 1 FROM outbox AS older WHERE older.build = item.build "
    "AND older.context = item.context COLLATE NOCASE AND older.id < item.id "
    "AND older.sent_at IS NULL AND older.dead = 0)"
)


@dataclass(frozen=True)
class Item:
    """One status to post; `target` is the flake attribute that it is about, if any."""

    id: int
    build: int
    sha: str
    context: str
    state: StatusState
    target: str | None
    head: bool
    queued_at: int
    tries: int
    error: str


def queue(
    connection: sqlite3.Connection,
    *,
    build: int,
    sha: str,
    context: str,
    state: StatusState,
    head: bool,
    at: int,
    target: str | None = None,
) -> None:
    """Add a status; pendings of the same key that were not sent yet are superseded."""
    supersede_pendings(connection, build, context, at=at)
    connection.execute(
        "INSERT INTO outbox (build, sha, context, state, target, head, queued_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (build, sha, context, state, target, int(head), at),
    )


def supersede_pendings(
    connection: sqlite3.Connection, build: int, context: str, *, at: int
) -> None:
    """Take the unsent pendings of a key out of the queue."""
    key = {"build": build, "context": context, "at": at}
    waiting = f"{_KEY} AND {_OPEN} AND state = 'pending'"
    connection.execute(f"DELETE FROM outbox WHERE {waiting} AND tries = 0", key)  # noqa: S608 — literals
    connection.execute(
        f"UPDATE outbox SET sent_at = :at, error = 'superseded while being sent' "  # noqa: S608 — literals
        f"WHERE {waiting}",
        key,
    )


def announce(
    connection: sqlite3.Connection, number: int, sha: str, *, context: str, at: int
) -> None:
    """The first pending of a build that was made in this transaction, and is a head."""
    announce_all(connection, [(number, sha, context, at)])


def announce_all(
    connection: sqlite3.Connection, made: Sequence[tuple[int, str, str, int]]
) -> None:
    """`announce` for many: (number, sha, context, at) of each."""
    bulk.insert(
        connection,
        "outbox (build, sha, context, state, head, queued_at)",
        [(number, sha, context, "pending", 1, at) for number, sha, context, at in made],
    )


def queue_pending(
    connection: sqlite3.Connection, number: int, *, context: str, at: int
) -> None:
    """Say that a build waits or runs, unless that was said last, or it has ended."""
    row = _build(connection, number)
    last = _last(connection, number, context)
    if BuildState(row["state"]).final or row["cause"] == Cause.UPDATE:
        return
    if last is not None and last["state"] == StatusState.PENDING:
        return
    queue(
        connection,
        build=number,
        sha=row["sha"],
        context=context,
        state=StatusState.PENDING,
        head=bool(row["head"]),
        at=at,
    )


def queue_verdict(
    connection: sqlite3.Connection, number: int, *, context: str, at: int
) -> None:
    """Queue all that follows from the end of a build, computed from its rows.

    The aggregate context always; each failing target in its own, at most 20; and
    success for each target that failed in an earlier attempt and has been built now. A
    skipped build says something only to close a pending that GitHub may show.
    Raises HistoryError when the build has not ended.
    """
    row = _build(connection, number)
    state = BuildState(row["state"])
    if not state.final:
        raise HistoryError(f"build #{number} is {state}: it has no verdict to report")
    if row["cause"] == Cause.UPDATE:
        return
    supersede_pendings(connection, number, context, at=at)
    verdict = status_state(
        state, pending_posted=pending_posted(connection, number, context)
    )
    news = target_statuses.news(connection, row, context)
    if verdict is not None:
        news.insert(0, (context, verdict, None))
    for where, what, target in news:
        queue(
            connection,
            build=number,
            sha=row["sha"],
            context=where,
            state=what,
            head=bool(row["head"]),
            at=at,
            target=target,
        )


def pending_posted(connection: sqlite3.Connection, number: int, context: str) -> bool:
    """Whether GitHub may be showing a pending for this build and context.

    What was refused for good at the first try never arrived; any other try may have.
    """
    row = connection.execute(
        f"SELECT state FROM outbox WHERE {_KEY} "  # noqa: S608 — literals
        "AND (sent_at IS NOT NULL OR tries > dead) ORDER BY id DESC LIMIT 1",
        {"build": number, "context": context},
    ).fetchone()
    return row is not None and row["state"] == StatusState.PENDING


def due(
    connection: sqlite3.Connection, now: int, *, urgent: bool = False
) -> Item | None:
    """The item to send next: finals before pendings, heads first, then by age.

    With `urgent`, only finals and heads. The contexts of single targets come after the
    finals that people wait for.
    """
    row = connection.execute(
        f"SELECT * FROM outbox AS item INDEXED BY outbox_next WHERE {_OPEN} AND {_DUE} "  # noqa: S608 — literals
        "AND (NOT :urgent OR head = 1 OR state <> 'pending') "
        f"AND {_FIRST_OF_ITS_KEY} "
        "ORDER BY state = 'pending', target IS NOT NULL, head DESC, id LIMIT 1",
        {"now": now, "longest": LONGEST_WAIT, "urgent": urgent},
    ).fetchone()
    return None if row is None else _item(row)


def next_due_at(connection: sqlite3.Connection) -> int | None:
    """When the next open item may be tried; None when all is sent."""
    row = connection.execute(
        f"SELECT min(next_try_at) AS at FROM outbox AS item "  # noqa: S608 — literals
        f"WHERE {_OPEN} AND {_FIRST_OF_ITS_KEY}"
    ).fetchone()
    return None if row["at"] is None else int(row["at"])


def begin(
    connection: sqlite3.Connection, now: int, *, urgent: bool = False
) -> Item | None:
    """Count a try of the item that is `due`, before it is made; None when none is.

    From here on GitHub may have it, whatever becomes of the reply or of us.
    """
    item = due(connection, now, urgent=urgent)
    if item is None:
        return None
    connection.execute("UPDATE outbox SET tries = tries + 1 WHERE id = ?", (item.id,))
    return replace(item, tries=item.tries + 1)


def sent(connection: sqlite3.Connection, item: int, at: int) -> None:
    """GitHub has it."""
    connection.execute(
        "UPDATE outbox SET sent_at = ?, error = '' WHERE id = ? AND dead = 0",
        (at, item),
    )


def failed(
    connection: sqlite3.Connection, item: int, error: str, next_try_at: int
) -> None:
    """GitHub may not have it: try again then, unless it has been superseded."""
    connection.execute(
        f"UPDATE outbox SET error = ?, next_try_at = ? WHERE id = ? AND {_OPEN}",  # noqa: S608 — literals
        (error, next_try_at, item),
    )


def dead(connection: sqlite3.Connection, item: int, error: str) -> None:
    """GitHub will never take it: keep it where people see it."""
    connection.execute(
        f"UPDATE outbox SET error = ?, dead = 1 WHERE id = ? AND {_OPEN}",  # noqa: S608 — literals
        (error, item),
    )


def hurry(connection: sqlite3.Connection, now: int) -> None:
    """Make everything due: what kept GitHub from answering is over."""
    connection.execute(
        f"UPDATE outbox SET next_try_at = :now WHERE {_OPEN} AND next_try_at > :now",  # noqa: S608 — literals
        {"now": now},
    )


def backlog(connection: sqlite3.Connection) -> int:
    """How many items are open."""
    row = connection.execute(
        f"SELECT count(*) AS n FROM outbox WHERE {_OPEN}"  # noqa: S608 — literals
    ).fetchone()
    return int(row["n"])


def sent_since(connection: sqlite3.Connection, since: int, until: int) -> int:
    """How many items were sent after `since`, up to `until` (milliseconds)."""
    row = connection.execute(
        "SELECT count(*) AS n FROM outbox WHERE sent_at > ? AND sent_at <= ?",
        (since, until),
    ).fetchone()
    return int(row["n"])


def dead_letters(connection: sqlite3.Connection, limit: int = MOST_DEAD) -> list[Item]:
    """What GitHub refused for good, newest first, unless something later made it good."""
    rows = connection.execute(
        "SELECT * FROM outbox AS item WHERE dead = 1 AND NOT EXISTS ("
        "  SELECT 1 FROM outbox AS later WHERE later.build = item.build "
        "  AND later.context = item.context COLLATE NOCASE AND later.id > item.id "
        "  AND later.sent_at IS NOT NULL) ORDER BY id DESC LIMIT ?",
        (limit,),
    )
    return [_item(row) for row in rows]


def _build(connection: sqlite3.Connection, number: int) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT number, sha, state, cause, head, requested_targets FROM builds "
        "WHERE number = ?",
        (number,),
    ).fetchone()
    if row is None:
        raise HistoryError(f"there is no build #{number}")
    return row


def _last(
    connection: sqlite3.Connection, number: int, context: str
) -> sqlite3.Row | None:
    row: sqlite3.Row | None = connection.execute(
        f"SELECT state FROM outbox WHERE {_KEY} ORDER BY id DESC LIMIT 1",  # noqa: S608 — literals
        {"build": number, "context": context},
    ).fetchone()
    return row


def _item(row: sqlite3.Row) -> Item:
    return Item(
        id=row["id"],
        build=row["build"],
        sha=row["sha"],
        context=row["context"],
        state=StatusState(row["state"]),
        target=row["target"],
        head=bool(row["head"]),
        queued_at=row["queued_at"],
        tries=row["tries"],
        error=row["error"],
    )
