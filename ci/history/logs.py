"""What is known of log files: how much they take, which may go, why one has gone.

The sizes are noted once an attempt has ended, so that nobody walks the files to know.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ci.history.retention import BATCH

# Of a build that is spared the logs of so many last tries are; one that waits for its
# remote can have had thousands.
TRIES = 3

_FREE = (
    "NOT EXISTS (SELECT 1 FROM pins p WHERE p.build = b.number) "
    "AND (a.number <= b.attempt - :tries OR (b.state NOT IN ('queued', 'running') "
    "  AND b.number NOT IN (SELECT value FROM json_each(:spared))))"
)


@dataclass(frozen=True)
class Log:
    """The log of an attempt that has ended; `size` is bytes."""

    build: int
    attempt: int
    size: int
    ended_at: int


def unmeasured(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """(build, attempt) of ended attempts whose log nobody has looked at yet."""
    rows = connection.execute(
        "SELECT build, number FROM attempts INDEXED BY attempts_unmeasured "
        "WHERE log_size IS NULL AND finished_at IS NOT NULL LIMIT ?",
        (BATCH,),
    )
    return [(row["build"], row["number"]) for row in rows]


def measured(
    connection: sqlite3.Connection, sizes: Iterable[tuple[int, int, int]]
) -> None:
    """Note (size, build, attempt) of logs; 0 where there is none."""
    connection.executemany(
        "UPDATE attempts SET log_size = ? WHERE build = ? AND number = ?", list(sizes)
    )


def total(connection: sqlite3.Connection) -> int:
    """How much the logs of ended attempts take together."""
    row = connection.execute(
        "SELECT sum(log_size) AS n FROM attempts INDEXED BY attempts_logs "
        "WHERE log_size > 0"
    ).fetchone()
    return int(row["n"] or 0)


def old_logs(connection: sqlite3.Connection, spared: Collection[int]) -> list[Log]:
    """Logs that may be removed, the oldest first, a batch of them."""
    rows = connection.execute(
        "SELECT a.build, a.number, a.log_size, a.finished_at "  # noqa: S608 — literals
        "FROM attempts a INDEXED BY attempts_logs "
        "CROSS JOIN builds b ON b.number = a.build "
        f"WHERE a.log_size > 0 AND {_FREE} ORDER BY a.finished_at LIMIT :limit",
        {"tries": TRIES, "spared": json.dumps(list(spared)), "limit": BATCH},
    )
    return [Log(*row) for row in rows]


def all_old_logs(connection: sqlite3.Connection, spared: Collection[int]) -> list[Log]:
    """The same, all of them, also those that nobody has measured: their size is 0.

    For a disk so full that no size can be noted. It reads every attempt.
    """
    rows = connection.execute(
        "SELECT a.build, a.number, coalesce(a.log_size, 0), a.finished_at "  # noqa: S608 — literals
        "FROM attempts a CROSS JOIN builds b ON b.number = a.build "
        "WHERE (a.log_size > 0 OR a.log_size IS NULL) AND a.finished_at IS NOT NULL "
        f"AND {_FREE} ORDER BY a.finished_at",
        {"tries": TRIES, "spared": json.dumps(list(spared))},
    )
    return [Log(*row) for row in rows]


def condemn(
    connection: sqlite3.Connection,
    logs: Sequence[Log],
    spared: Collection[int],
    why: str,
) -> list[Log]:
    """Write down why these logs go; return those that still may."""
    named = {"tries": TRIES, "spared": json.dumps(list(spared)), "why": why}
    return [
        log
        for log in logs
        if connection.execute(
            "UPDATE attempts AS a SET log_removed = :why "  # noqa: S608 — literals
            "WHERE build = :build AND number = :attempt AND EXISTS "
            f"(SELECT 1 FROM builds b WHERE b.number = a.build AND {_FREE})",
            {**named, "build": log.build, "attempt": log.attempt},
        ).rowcount
    ]


def condemned(connection: sqlite3.Connection) -> list[Log]:
    """Logs that were to go when the server died."""
    rows = connection.execute(
        "SELECT build, number, log_size, finished_at FROM attempts "
        "INDEXED BY attempts_logs WHERE log_size > 0 AND log_removed IS NOT NULL"
    )
    return [Log(*row) for row in rows]


def why_removed(connection: sqlite3.Connection, build: int, attempt: int) -> str | None:
    """When and why the log of an attempt was removed; None when it was not by us."""
    row = connection.execute(
        "SELECT log_removed FROM attempts WHERE build = ? AND number = ?",
        (build, attempt),
    ).fetchone()
    return None if row is None else row["log_removed"]
