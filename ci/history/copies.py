"""Copies of a history, in use or not: each is whole and durable, or not there at all."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from ci.errors import HistoryError


def copy_into(connection: sqlite3.Connection, target: Path) -> None:
    """Copy to `target`, which must not exist: it is whole and durable, or absent."""
    if target.exists():
        raise HistoryError(f"{target} exists already; name a file that does not")
    vacuum_into(connection, target)


def vacuum_into(connection: sqlite3.Connection, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(part),))
    # SQLite does not flush what it vacuums into.
    _flush(part)
    part.replace(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_database(source: Path, target: Path) -> None:
    """Copy the database at `source`, in use or not, to `target`, which must not exist.

    Raises HistoryError.
    """
    if not source.exists():
        raise HistoryError(f"there is no history at {source} yet")
    connection = sqlite3.connect(
        f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
    )
    try:
        copy_into(connection, target)
    except sqlite3.Error as error:
        raise HistoryError(f"cannot copy {source} to {target}: {error}") from error
    finally:
        connection.close()
