"""What an error of SQLite means for the process that meets it.

* Full, busy, locked: nothing is broken; whoever asked is told, and may ask again.
* An I/O error (also of fsync) leaves open what the disk holds, and asking again proves
  nothing: the kernel may have dropped the pages and report success the next time
  (https://lwn.net/Articles/752063/). The process must end; the next one reads the file
  anew and writes every page of the log again (database.py, `_settle`).
* Damage must be seen by a person; but only what a start finds is taken for damage.

Codes: https://www.sqlite.org/rescode.html
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from ci.errors import HistoryCorrupt, HistoryError
from ci.history import paths
from ci.text import printable

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# Short of memory, of room for the index of the log, of a place for a temporary file:
# they are called I/O errors, but nothing was lost.
_HARMLESS = {
    sqlite3.SQLITE_IOERR_NOMEM,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_GETTEMPPATH,
}


def code(error: sqlite3.Error) -> int:
    """SQLite's extended code; 0 for what Python's module raised by itself."""
    return int(getattr(error, "sqlite_errorcode", 0))


def damaged(error: sqlite3.Error) -> bool:
    """SQLite says that the file is not what it wrote."""
    return code(error) & 0xFF in _DAMAGED


def fatal(error: sqlite3.Error) -> bool:
    """This process must not go on with this database."""
    broken = code(error) & 0xFF == sqlite3.SQLITE_IOERR
    return damaged(error) or (broken and code(error) not in _HARMLESS)


def locked(error: sqlite3.Error) -> bool:
    """Another program holds the database; it may let go of it at any time."""
    return code(error) & 0xFF in _LOCKED


def corrupt(path: Path, what: object) -> HistoryCorrupt:
    """The sentence for a damaged history: what was seen, and how to go on."""
    copies = sorted(path.parent.glob(f"{path.name}.before-upgrade-from-*"))
    copies += filter(Path.exists, [paths.backup_path(path.parent)])
    kept = f"; {copies[-1]} is one" if copies else ""
    seen = printable(" ".join(str(what).split()))[:200]
    return HistoryCorrupt(
        f"{path} is damaged ({seen}) and was left as it is: move it aside with "
        f"`mv {path} {path}-* /var/tmp/` and put back a backup (`build-server backup` "
        f"makes them{kept}), or start without one"
    )


def ending(path: Path, error: sqlite3.Error) -> HistoryError:
    """Why this process ends, for a fatal error.

    Also damage that was met on the way: a disk that fails looks like that. Whether the
    file is damaged the next start tells, which is why it is called suspect.
    """
    if damaged(error):
        with suppress(OSError):
            suspicion(path).touch()
    return HistoryError(
        f"using {path} failed ({error}, {getattr(error, 'sqlite_errorname', '?')}): what "
        "the disk holds is not known until it is opened again, so this process ends and "
        "records nothing more; `dmesg` shows errors of a disk"
    )


def suspicion(path: Path) -> Path:
    """The file that tells the next start to look through the whole history."""
    return path.with_name(f"{path.name}-suspect")


def unusable(path: Path, error: sqlite3.Error) -> HistoryError:
    """Why the database cannot be opened."""
    if damaged(error) or type(error) is sqlite3.DatabaseError:
        return corrupt(path, error)
    if locked(error):
        return HistoryError(
            f"{path} is locked by another program ({error}); end it and try again"
        )
    if code(error) & 0xFF == sqlite3.SQLITE_READONLY:
        return HistoryError(
            f"{path} cannot be written ({error}): let the service's user own it, on a "
            "file system that is not mounted read-only"
        )
    return HistoryError(f"cannot open {path}: {error}")
