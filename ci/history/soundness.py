"""Is this the history that was written? Looked at before anything writes to it.

SQLite itself trusts what it finds. It deletes the log of a database that has become
empty, silently drops the rest of a log after a damaged page, and does not notice that
text has changed. So the file is looked through first, on a connection that cannot write:
whatever is found, nothing has been changed.

Not to be seen: a log cut short exactly between two transactions (the older state is
whole, and lost pushes are found by reconciling), and other letters in text that only
people read.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ci.history import faults, paths, rules, wal

# Looking through as much takes about 0.2 s; a start must take less than 1 s.
AT_ONCE = 16 * 1024**2


def examine(path: Path) -> bool:
    """Look at the database at `path`; False when it is too large to look through at once.

    Nothing at all is sound: a first start, or somebody wants to begin without a history.
    Raises HistoryCorrupt, and sqlite3.Error when it cannot be read.
    """
    log = path.with_name(f"{path.name}-wal")
    logged = log.stat().st_size if log.exists() else 0
    size = path.stat().st_size if path.exists() else 0
    if size == 0:
        if logged:
            raise faults.corrupt(path, "it is empty or gone, but its log is not")
        if path.exists() and paths.highest_log(path.parent):
            raise faults.corrupt(path, "it is empty, but there are logs of builds")
        return True
    with closing(reader(path)) as connection:
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if faults.code(error) & 0xFF == sqlite3.SQLITE_READONLY:
                return False  # the very first transaction was cut off: nothing is lost
            raise
        except UnicodeDecodeError as error:
            # SQLite's own message quotes the damaged schema.
            raise faults.corrupt(path, "its schema is no text") from error
        if logged:
            _compare(path, log)
        suspect = faults.suspicion(path)
        if size + logged > AT_ONCE and not suspect.exists():
            return False
        look_through(connection, path)
    suspect.unlink(missing_ok=True)
    return True


def reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, and so leaves the log as it is when it is closed."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None
    )
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def look_through(connection: sqlite3.Connection, path: Path) -> None:
    """Read every page and hold the rows to our own rules; raises HistoryCorrupt."""
    for trouble in rules.troubles(connection):
        raise faults.corrupt(path, trouble)


def look_through_later(path: Path) -> None:
    """The same on a connection of its own, for a history in use; raises HistoryCorrupt."""
    with closing(reader(path)) as connection:
        try:
            look_through(connection, path)
        except sqlite3.Error as error:
            raise faults.unusable(path, error) from error


def _compare(path: Path, log: Path) -> None:
    """Refuse a log of which SQLite would drop what had become durable."""
    durable = wal.durable(log)
    believed = wal.believed(path.with_name(f"{path.name}-shm"))
    if believed < durable:
        raise faults.corrupt(
            path,
            f"page {believed + 1} of at least {durable} that were flushed to its log "
            f"{log.name} is not what was written",
        )
