"""Server processes that held the state directory, so that a crash can be told apart."""

from __future__ import annotations

import sqlite3


def begin(
    connection: sqlite3.Connection, *, boot_id: str, pid: int, pid_start: int, at: int
) -> int:
    """Record this process; `pid_start` is in clock ticks since boot."""
    row = connection.execute(
        "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
        "VALUES (?, ?, ?, ?) RETURNING id",
        (boot_id, pid, pid_start, at),
    ).fetchone()
    return int(row["id"])


def end(connection: sqlite3.Connection, instance: int, at: int) -> None:
    """Record that this process said good-bye."""
    connection.execute(
        "UPDATE instances SET stopped_at = ? WHERE id = ?", (at, instance)
    )
