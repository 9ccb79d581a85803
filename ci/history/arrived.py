"""What has arrived and what was posted, for whoever sets the server up. Reads only."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from ci.history import outbox
from ci.history.outbox import Item

MOST_IGNORED = 5
MOST_DEAD = 10


@dataclass(frozen=True)
class Delivery:
    """A signed delivery; `reason` says why it started no build, empty when it did."""

    at: int
    hook: str
    repo: str | None
    ref: str | None
    after: str | None
    reason: str


@dataclass(frozen=True)
class Posted:
    """A commit status that GitHub took."""

    at: int
    build: int
    context: str
    state: str


@dataclass(frozen=True)
class Arrived:
    """`begun`, `ended`: whether a build has; `signed_at`: when the newest signed delivery came.

    `ping`, `push`: the newest; `ignored`: pushes that started nothing, newest first.
    `waiting` statuses are not posted yet; `dead` ones never will be.
    """

    begun: bool
    ended: bool
    signed_at: int
    ping: Delivery | None
    push: Delivery | None
    ignored: tuple[Delivery, ...]
    posted: Posted | None
    waiting: int
    dead: tuple[Item, ...]


NOTHING = Arrived(False, False, 0, None, None, (), None, 0, ())


def arrived(connection: sqlite3.Connection) -> Arrived:
    """Everything at one moment."""
    signed = connection.execute(
        "SELECT received_at FROM deliveries ORDER BY id DESC LIMIT 1"
    ).fetchone()
    pings = _deliveries(connection, "event = 'ping'", 1)
    pushes = _deliveries(connection, "event = 'push' AND accepted = 1", 1)
    ignored = _deliveries(connection, "event = 'push' AND accepted = 0", MOST_IGNORED)
    return Arrived(
        begun=_any_build(connection, "1"),
        ended=_any_build(connection, "state IN ('succeeded', 'failed', 'error')"),
        signed_at=int(signed["received_at"]) if signed else 0,
        ping=next(iter(pings), None),
        push=next(iter(pushes), None),
        ignored=tuple(ignored),
        posted=_posted(connection),
        waiting=outbox.backlog(connection),
        dead=tuple(outbox.dead_letters(connection, MOST_DEAD)),
    )


def _any_build(connection: sqlite3.Connection, condition: str) -> bool:
    row = connection.execute(
        f"SELECT EXISTS (SELECT 1 FROM builds WHERE {condition}) AS there"  # noqa: S608 — literals
    ).fetchone()
    return bool(row["there"])


def _deliveries(
    connection: sqlite3.Connection, condition: str, limit: int
) -> list[Delivery]:
    rows = connection.execute(
        "SELECT d.received_at, d.hook_id, d.ref, d.after_sha, d.reason, r.name "  # noqa: S608 — literals
        "FROM deliveries AS d LEFT JOIN repositories AS r ON r.id = d.repository_id "
        f"WHERE {condition} ORDER BY d.id DESC LIMIT ?",
        (limit,),
    )
    return [
        Delivery(
            at=row["received_at"],
            hook=row["hook_id"],
            repo=row["name"],
            ref=row["ref"],
            after=row["after_sha"],
            reason=row["reason"],
        )
        for row in rows
    ]


def _posted(connection: sqlite3.Connection) -> Posted | None:
    row = connection.execute(
        "SELECT sent_at, build, context, state FROM outbox "
        "WHERE sent_at IS NOT NULL AND dead = 0 AND error = '' "
        "ORDER BY id DESC LIMIT 1"
    ).fetchone()
    if row is None:
        return None
    return Posted(row["sent_at"], row["build"], row["context"], row["state"])
