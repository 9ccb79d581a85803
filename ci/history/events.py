"""What changed, in order: rows that triggers write with every change of a build.

Ids have no gaps and are never used twice, so that whoever knows the last one he was told
can ask for the rest. Only the newest two thousand or so are kept.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Literal

from ci.models import BuildState

Kind = Literal["queued", "state", "progress", "removed"]


@dataclass(frozen=True)
class Event:
    """One change of a build; `state` is the one it had then."""

    id: int
    build: int
    repo: str
    kind: Kind
    state: BuildState


@dataclass(frozen=True)
class Look:
    """What is new, and how many builds wait, at one moment."""

    events: list[Event]
    queued: int


def newest(connection: sqlite3.Connection) -> int:
    """The id of the last event; 0 when there never was one."""
    return int(connection.execute("SELECT max(id) FROM events").fetchone()[0] or 0)


def oldest(connection: sqlite3.Connection) -> int:
    """The id of the first event that is still kept; 0 when there is none."""
    return int(connection.execute("SELECT min(id) FROM events").fetchone()[0] or 0)


def since(connection: sqlite3.Connection, after: int, limit: int) -> list[Event]:
    """The first `limit` events behind `after`, oldest first."""
    rows = connection.execute(
        "SELECT e.id, e.build, r.name AS repo, e.kind, e.state FROM events e "
        "JOIN repositories r ON r.id = e.repository_id "
        "WHERE e.id > ? ORDER BY e.id LIMIT ?",
        (after, limit),
    )
    return [
        Event(
            row["id"], row["build"], row["repo"], row["kind"], BuildState(row["state"])
        )
        for row in rows
    ]


def can_follow(connection: sqlite3.Connection, after: int) -> bool:
    """Whether everything behind `after` is still known here.

    An id that is still to come was given by another history.
    """
    return oldest(connection) - 1 <= after <= newest(connection)


def look(connection: sqlite3.Connection, after: int, limit: int) -> Look:
    """`since`, and the length of the queue, in one snapshot."""
    row = connection.execute(
        "SELECT sum(n) FROM build_counts WHERE state = 'queued'"
    ).fetchone()
    return Look(since(connection, after, limit), int(row[0] or 0))
