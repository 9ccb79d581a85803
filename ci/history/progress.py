"""What a running build shows of itself: targets, a sentence, its derivations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from ci.models import Target


def set_targets(
    connection: sqlite3.Connection, number: int, targets: Sequence[Target]
) -> None:
    """Make `targets` the targets of the build, in this order."""
    connection.execute("DELETE FROM targets WHERE build = ?", (number,))
    connection.executemany(
        "INSERT INTO targets (build, name, position, state, seconds, error, "
        "derivation, outputs) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                number,
                target.name,
                position,
                target.state,
                target.seconds,
                target.error,
                target.derivation,
                json.dumps(dict(target.outputs or {})),
            )
            for position, target in enumerate(targets)
        ],
    )


def set_summary(connection: sqlite3.Connection, number: int, summary: str) -> None:
    """What a running build is doing now, for people."""
    connection.execute(
        "UPDATE builds SET summary = ? WHERE number = ? AND state = 'running'",
        (summary, number),
    )


def record_attempt(
    connection: sqlite3.Connection,
    number: int,
    attempt: int,
    *,
    steps: Sequence[tuple[str, int]],
    built: int | None,
    substituted: int | None,
    store_used: int | None,
) -> None:
    """Where the time of an attempt went, and what it built, fetched and left in use."""
    connection.execute(
        "UPDATE attempts SET steps = ?, built = ?, substituted = ?, store_used = ? "
        "WHERE build = ? AND number = ?",
        (json.dumps(list(steps)), built, substituted, store_used, number, attempt),
    )


@dataclass(frozen=True)
class Row:
    """One derivation's stay in a builder, in milliseconds since the epoch.

    `needs` are those of the same attempt that it refers to.
    """

    path: str
    machine: str
    started_at: int
    stopped_at: int | None
    needs: Sequence[str] = ()
    failed: bool = False


def record_derivations(
    connection: sqlite3.Connection, number: int, attempt: int, rows: Sequence[Row]
) -> None:
    """Keep derivations for the timeline."""
    connection.executemany(
        "INSERT INTO derivations "
        "(build, attempt, path, machine, started_at, stopped_at, needs, failed) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
        "stopped_at = excluded.stopped_at, needs = excluded.needs, "
        "failed = excluded.failed",
        [
            (
                number,
                attempt,
                row.path,
                row.machine,
                row.started_at,
                row.stopped_at,
                json.dumps(list(row.needs)),
                row.failed,
            )
            for row in rows
        ],
    )
