"""What a running build shows of itself: targets, a sentence, its derivations."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

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


def record_derivations(
    connection: sqlite3.Connection,
    number: int,
    attempt: int,
    rows: Sequence[tuple[str, str, int, int | None]],
) -> None:
    """Keep (path, machine, started_at, stopped_at) of derivations for the timeline."""
    connection.executemany(
        "INSERT INTO derivations VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO UPDATE SET stopped_at = excluded.stopped_at",
        [(number, attempt, *row) for row in rows],
    )
