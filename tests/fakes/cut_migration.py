"""Upgrades that are cut off everywhere: `python cut_migration.py upgrade|copy OLD FOLDER`.

FOLDER/1, FOLDER/2, … each get the history of the file OLD; in each a process begins to
upgrade it (or to copy it first) and is killed one step later than the one before, until
one lives to the end. Then `FOLDER/whole` names that one's number.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from ci.history.database import connect_writer
from ci.history.schema import keep_copy, migrate, migrations_directory

# SQLite instructions between two places to die at, while a copy is made.
STRIDE = 100


def die_at(number: int) -> Callable[..., None]:
    """A callback that kills this process when it is called for the `number`th time."""
    calls = count(1)

    def called(*_: object) -> None:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return called


def cut(what: str, path: Path, number: int) -> None:
    connection = connect_writer(path)
    if what == "upgrade":
        connection.set_trace_callback(die_at(number))
        migrate(connection, migrations_directory())
    else:
        connection.set_progress_handler(die_at(number), STRIDE)
        keep_copy(connection, path, migrations_directory())
    connection.set_progress_handler(None, 0)
    connection.close()


def main(what: str, old: str, folder: str) -> None:
    for number in count(1):
        path = Path(folder) / str(number) / "history.db"
        path.parent.mkdir(parents=True)
        shutil.copy(old, path)
        child = os.fork()
        if child == 0:
            try:
                cut(what, path, number)
            except sqlite3.Error as error:
                print(error, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            (Path(folder) / "whole").write_text(str(number))
            return
        if os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{what} {number} ended with {status}")


if __name__ == "__main__":
    main(*sys.argv[1:])
