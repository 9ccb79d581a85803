"""Pins: builds whose row, log and roots are kept until somebody lets go of them."""

from __future__ import annotations

import sqlite3


def pin(connection: sqlite3.Connection, build: int, *, by: str, at: int) -> int:
    """Keep a build, which must exist; return the id of its repository.

    Who pinned it first is remembered.
    """
    connection.execute(
        "INSERT INTO pins (build, pinned_at, pinned_by) VALUES (?, ?, ?) "
        "ON CONFLICT (build) DO NOTHING",
        (build, at, by),
    )
    row = connection.execute(
        "SELECT repository_id FROM builds WHERE number = ?", (build,)
    ).fetchone()
    return int(row["repository_id"])


def unpin(connection: sqlite3.Connection, build: int) -> None:
    """Let go of a build; one that is not pinned is fine."""
    connection.execute("DELETE FROM pins WHERE build = ?", (build,))


def numbers(connection: sqlite3.Connection) -> frozenset[int]:
    """All pinned builds."""
    return frozenset(row["build"] for row in connection.execute("SELECT * FROM pins"))
