"""The schema: numbered SQL files, each applied in one transaction, once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import ci
from ci.errors import HistoryError, HistoryTooNew
from ci.history.copies import vacuum_into


def migrations_directory() -> Path:
    """Where the numbered .sql files are: inside the installed package, or the checkout."""
    package = Path(ci.__file__).parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def migrations(directory: Path) -> dict[int, Path]:
    """Version -> file, for `NNNN_name.sql`; raises HistoryError unless they are 1..n."""
    found = {int(file.name[:4]): file for file in sorted(directory.glob("[0-9]*.sql"))}
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise HistoryError(
            f"{directory} does not hold migrations numbered from 0001 on"
        )
    return found


def version(connection: sqlite3.Connection) -> int:
    """The schema's version; 0 is an empty database."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(
    connection: sqlite3.Connection, directory: Path, newest: int | None = None
) -> int:
    """Bring the schema up to date, each step in one transaction; return the version.

    With `newest`, only to that version. Raises HistoryTooNew, and HistoryError when a step
    fails (nothing of it stays).
    """
    known = migrations(directory)
    current = version(connection)
    if current > max(known):
        raise HistoryTooNew(
            f"the history was written by a newer build-server (schema {current}; this "
            f"one knows {max(known)}): install that version again, or restore a backup"
        )
    last = max(known) if newest is None else min(newest, max(known))
    for number in range(current + 1, last + 1):
        script = known[number].read_text(encoding="utf-8")
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise HistoryError(
                f"migration {known[number].name} failed and left nothing: {error}"
            ) from error
    return last


def keep_copy(
    connection: sqlite3.Connection, path: Path, directory: Path
) -> Path | None:
    """Copy a database that is about to be upgraded; None when there is nothing to lose."""
    current = version(connection)
    if current == 0 or current >= max(migrations(directory)):
        return None
    copy = path.with_name(f"{path.name}.before-upgrade-from-{current}")
    vacuum_into(connection, copy)
    return copy
