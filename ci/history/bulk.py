"""Many rows in one statement.

`executemany` runs a statement for each row, and for each the interpreter's lock is let go
and waited for several times. In a storm of pushes the writer's thread then waits for the
event loop at every row, and the event loop for it. One statement with many rows runs from
its first to its last without the lock.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

# Statements are prepared for 1, 2, 4, … rows up to this: few, so that they stay prepared.
MOST = 64

Row = Sequence[str | int | None]


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[Row]) -> list[int]:
    """Insert `rows` in their order; return the row ids that they got.

    `into` is the table with its columns, `t (a, b)`. Only within a transaction and where
    SQLite chooses the ids: these then follow each other.
    """
    ids: list[int] = []
    for part in _parts(rows):
        cursor = connection.execute(
            f"INSERT INTO {into} VALUES {_marks(part)}",  # noqa: S608 — literals
            [value for row in part for value in row],
        )
        last = cursor.lastrowid or 0
        ids.extend(range(last - len(part) + 1, last + 1))
    return ids


def select(
    connection: sqlite3.Connection, query: str, rows: Sequence[Row]
) -> list[sqlite3.Row]:
    """What `query` finds with `rows` in the place of its `{}`, a list of VALUES."""
    found: list[sqlite3.Row] = []
    for part in _parts(rows):
        values = [value for row in part for value in row]
        found += connection.execute(query.format(_marks(part)), values)
    return found


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    done = 0
    while done < len(rows):
        size = min(MOST, 1 << ((len(rows) - done).bit_length() - 1))
        yield rows[done : done + size]
        done += size


def _marks(rows: Sequence[Row]) -> str:
    return ", ".join([f"({', '.join('?' * len(rows[0]))})"] * len(rows))
