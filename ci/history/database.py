"""SQLite: opening, migrating, and whole transactions as functions.

aiosqlite gives each connection a thread and runs one *statement* per hop, so two tasks
that share a connection can interleave inside a transaction, and a cancelled task leaves
half of one behind. Here one hop is one *transaction*: a plain function that gets the
`sqlite3.Connection`, runs start to end in that thread, and is committed or rolled back
there. Cancelling the task that waits for it cannot tear it. (aiosqlite's `_execute` is
the only seam that takes a function; the version is pinned for it in pyproject.toml.)

Durability: WAL with `synchronous=FULL`, because an acknowledged push must survive power
loss and NORMAL may lose the last commits (sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

import aiosqlite

import ci
from ci.errors import HistoryCorrupt, HistoryError, HistoryTooNew

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2


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


def migrate(connection: sqlite3.Connection, directory: Path) -> int:
    """Bring the schema up to date, each step in one transaction; return the version.

    Raises HistoryTooNew, and HistoryError when a step fails (nothing of it stays).
    """
    known = migrations(directory)
    current = version(connection)
    if current > max(known):
        raise HistoryTooNew(
            f"the history was written by a newer build-server (schema {current}; this "
            f"one knows {max(known)}): install that version again, or restore a backup"
        )
    for number in range(current + 1, max(known) + 1):
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
    return max(known)


def keep_copy(
    connection: sqlite3.Connection, path: Path, directory: Path
) -> Path | None:
    """Copy a database that is about to be upgraded; None when there is nothing to lose."""
    current = version(connection)
    if current == 0 or current >= max(migrations(directory)):
        return None
    copy = path.with_name(f"{path.name}.before-upgrade-from-{current}")
    copy.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(copy),))
    return copy


def connect_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes; autocommit, so that BEGIN and COMMIT are ours."""
    return _prepared(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False),
        "busy_timeout = 5000",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "journal_size_limit = 67108864",
        # 16 MiB: each checkpoint writes pages back that a storm touches again at once.
        "wal_autocheckpoint = 4096",
    )


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, and so never checkpoints either."""
    return _prepared(
        sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        ),
        "busy_timeout = 5000",
        "query_only = ON",
    )


def _prepared(connection: sqlite3.Connection, *pragmas: str) -> sqlite3.Connection:
    connection.row_factory = sqlite3.Row
    try:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """COMMIT at the end; whatever is raised, COMMIT's own failure too, rolls all back."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Database:
    """One writer, a few readers. Make it with `open`, end it with `close`."""

    def __init__(
        self,
        path: Path,
        writer: aiosqlite.Connection,
        readers: list[aiosqlite.Connection],
    ) -> None:
        self.path = path
        self._writer = writer
        self._readers = readers
        self._turn = itertools.cycle(readers)

    @classmethod
    async def open(cls, path: Path, *, directory: Path | None = None) -> Database:
        """Open and migrate the database at `path`, made when absent.

        Raises HistoryTooNew, HistoryCorrupt, HistoryError.
        """
        steps = await asyncio.to_thread(lambda: directory or migrations_directory())
        try:
            writer = await _open(connect_writer, path)
        except sqlite3.DatabaseError as error:
            raise _corrupt(path, error) from error
        opened = [writer]
        try:
            await _call(writer, lambda raw: keep_copy(raw, path, steps))
            await _call(writer, lambda raw: migrate(raw, steps))
            for _ in range(READERS):
                opened.append(await _open(connect_reader, path))
        except BaseException as error:
            for connection in opened:
                await connection.close()
            if isinstance(error, sqlite3.DatabaseError):
                raise _corrupt(path, error) from error
            raise
        return cls(path, writer, opened[1:])

    async def write(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `function` as one durable transaction.

        When the caller is cancelled the transaction still ends whole: committed or
        rolled back; the caller cannot tell which, a reader can.
        """

        def whole(connection: sqlite3.Connection) -> T:
            # IMMEDIATE: one that began by reading could not wait for the lock.
            with _transaction(connection, "BEGIN IMMEDIATE"):
                return function(connection, *args, **kwargs)

        return await _call(self._writer, whole)

    async def read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `function` on one snapshot; it cannot write."""

        def whole(connection: sqlite3.Connection) -> T:
            with _transaction(connection, "BEGIN"):
                return function(connection, *args, **kwargs)

        return await _call(next(self._turn), whole)

    async def close(self) -> None:
        """Let queued transactions end, leave a small file, stop the threads."""
        for reader in self._readers:
            await reader.close()
        await _call(self._writer, _tidy)
        await self._writer.close()


def copy_into(connection: sqlite3.Connection, target: Path) -> None:
    """VACUUM INTO beside the target, then rename: the target is whole or absent."""
    if target.exists():
        raise HistoryError(f"{target} exists already; name a file that does not")
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    connection.execute("VACUUM INTO ?", (str(part),))
    part.rename(target)


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


def _tidy(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA optimize")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def _open(
    connect: Callable[[Path], sqlite3.Connection], path: Path
) -> aiosqlite.Connection:
    connection = aiosqlite.Connection(lambda: connect(path), iter_chunk_size=64)
    try:
        return await connection
    except BaseException:
        # aiosqlite tells its thread to end but does not wait; it must not outlive the loop.
        await asyncio.to_thread(connection._thread.join)
        raise


async def _call(
    connection: aiosqlite.Connection, function: Callable[[sqlite3.Connection], T]
) -> T:
    execute = cast(Callable[..., Awaitable[T]], connection._execute)
    work = asyncio.ensure_future(execute(function, connection._conn))
    return await asyncio.shield(work)


def _corrupt(path: Path, error: sqlite3.DatabaseError) -> HistoryError:
    if isinstance(error, sqlite3.OperationalError):
        return HistoryError(f"cannot open {path}: {error}")
    return HistoryCorrupt(
        f"{path} is damaged ({error}): stop the service, move the file aside, and put "
        "back a backup (`build-server backup` makes them), or start without one"
    )
