"""A copy of the history every day, so that a damaged one has something to go back to."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from ci.errors import HistoryError
from ci.history.copies import copy_into
from ci.history.soundness import reader

EVERY = 86400.0
# SQLite instructions between two looks at whether to go on.
STRIDE = 100_000


def due(last: Path, now: float) -> bool:
    """Whether the copy `last` is a day old, or from a future that never came (seconds)."""
    try:
        made = last.stat().st_mtime
    except FileNotFoundError:
        return True
    return not now - EVERY < made < now + EVERY


def size(database: Path) -> int:
    """Bytes that a copy may take."""
    logged = database.with_name(f"{database.name}-wal")
    return sum(file.stat().st_size for file in (database, logged) if file.exists())


async def copy(
    database: Path, last: Path, *, stop: threading.Event | None = None
) -> None:
    """Make a copy in the place of `last`, which is kept as `.1`.

    On a connection of its own that cannot write: nobody waits for it. Raises
    HistoryError, and then the copies are as they were. Cancelling ends it early, and so
    does `stop`, which is looked at all the time.
    """
    stop = stop or threading.Event()
    try:
        await asyncio.to_thread(_copy, database, last, stop)
    finally:
        stop.set()


def _copy(database: Path, last: Path, stop: threading.Event) -> None:
    last.parent.mkdir(mode=0o700, exist_ok=True)
    new = last.with_name(f"{last.name}.new")
    new.unlink(missing_ok=True)
    try:
        with closing(reader(database)) as connection:
            connection.set_progress_handler(stop.is_set, STRIDE)
            copy_into(connection, new)
    except sqlite3.Error as error:
        # What was written of it goes; a full disk must not stay full of it.
        new.with_name(f".{new.name}.part").unlink(missing_ok=True)
        raise HistoryError(f"the daily copy to {last} failed: {error}") from error
    if last.exists():
        os.replace(last, _older(last))
    os.replace(new, last)


def _older(last: Path) -> Path:
    return last.with_name(f"{last.name}.1")


def remove_older(last: Path) -> None:
    """The copy before the last one goes when the disk is full."""
    _older(last).unlink(missing_ok=True)
