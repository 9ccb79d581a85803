"""SQLite: opening, migrating, and whole transactions as functions.

aiosqlite gives each connection a thread and runs one *statement* per hop, so two tasks
that share a connection can interleave inside a transaction, and a cancelled task leaves
half of one behind. Here one hop is one *transaction*: a plain function that gets the
`sqlite3.Connection`, runs start to end in that thread, and is committed or rolled back
there. Cancelling the task that waits for it cannot tear it. (aiosqlite's `_execute` is
the only seam that takes a function; the version is pinned for it in pyproject.toml.)

Durability: WAL with `synchronous=FULL`, because an acknowledged push must survive power
loss and NORMAL may lose the last commits (sqlite.org/pragma.html#pragma_synchronous).

Faults: after an I/O error or damage this process records nothing more and `failed`
says why; a full disk and a locked file are errors of the one who asked (faults.py).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar, cast

import aiosqlite

from ci.errors import HistoryCorrupt, HistoryError
from ci.history import faults, soundness
from ci.history.schema import keep_copy, migrate, migrations_directory, version
from ci.models import Check

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2
# Seconds after the start until a history is looked through that was too large for it.
LOOK_AFTER = 60.0
LOOK_AGAIN = 60.0

log = logging.getLogger(__name__)

# Where a transaction is: begun, all done but its COMMIT, and committed.
Moment = Literal["begun", "done", "committed"]

# Called in the writer's thread at each moment of each transaction, with the name of its
# function. For tests that kill the process there; None costs nothing.
watcher: Callable[[str, Moment], None] | None = None


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
    # A letter that the disk has changed must not keep a page, or a loop, from its row.
    connection.text_factory = partial(str, encoding="utf-8", errors="replace")
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
        *,
        looked_through: bool = True,
    ) -> None:
        self.path = path
        self._writer = writer
        self._readers = readers
        self._turn = itertools.cycle(readers)
        self._loop = asyncio.get_running_loop()
        self._looked_through = looked_through
        self._failure: HistoryError | None = None
        self._failed: asyncio.Future[HistoryError] = self._loop.create_future()
        self._trouble = ""
        # Called in the event loop when there was no room for a write.
        self.on_full: Callable[[], None] = _nothing

    @classmethod
    async def open(cls, path: Path, *, directory: Path | None = None) -> Database:
        """Examine, open and migrate the database at `path`, made when absent.

        Raises HistoryTooNew, HistoryCorrupt, HistoryError.
        """
        steps = await asyncio.to_thread(lambda: directory or migrations_directory())
        opened: list[aiosqlite.Connection] = []
        try:
            sound = await asyncio.to_thread(soundness.examine, path)
            opened.append(await _open(connect_writer, path))
            await _call(opened[0], _settle)
            await _call(opened[0], lambda raw: keep_copy(raw, path, steps))
            await _call(opened[0], lambda raw: migrate(raw, steps))
            for _ in range(READERS):
                opened.append(await _open(connect_reader, path))
        except BaseException as error:
            for connection in opened:
                await connection.close()
            if isinstance(error, sqlite3.Error):
                raise await asyncio.to_thread(faults.unusable, path, error) from error
            raise
        return cls(path, opened[0], opened[1:], looked_through=sound)

    async def write(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `function` as one durable transaction.

        When the caller is cancelled the transaction still ends whole: committed or
        rolled back; the caller cannot tell which, a reader can. Raises sqlite3.Error:
        after a fatal one every later write is refused.
        """

        def whole(connection: sqlite3.Connection) -> T:
            if self._failure is not None:
                raise sqlite3.OperationalError(f"nothing is recorded: {self._failure}")
            # IMMEDIATE: one that began by reading could not wait for the lock.
            with self._judged(), _transaction(connection, "BEGIN IMMEDIATE"):
                _watch(function, "begun")
                result = function(connection, *args, **kwargs)
                _watch(function, "done")
            self._trouble = ""
            _watch(function, "committed")
            return result

        return await _call(self._writer, whole)

    async def read(
        self,
        function: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run `function` on one snapshot; it cannot write."""

        def whole(connection: sqlite3.Connection) -> T:
            with self._judged(), _transaction(connection, "BEGIN"):
                return function(connection, *args, **kwargs)

        return await _call(next(self._turn), whole)

    async def failed(self) -> HistoryError:
        """Wait until this process may not go on with its history; return why."""
        return await asyncio.shield(self._failed)

    async def guard(self, after: float = LOOK_AFTER, every: float = LOOK_AGAIN) -> None:
        """Look through a large history once, and see to it that its file stays there.

        The first look is `after` seconds from now, the others `every` so many.
        """
        files = await asyncio.to_thread(_identities, self.path)
        if not self._looked_through:
            await asyncio.sleep(after)
            try:
                await asyncio.to_thread(soundness.look_through_later, self.path)
            except HistoryError as error:
                self._fail(error)
            self._looked_through = True
        while True:
            await asyncio.sleep(every)
            if await asyncio.to_thread(_identities, self.path) != files:
                break
        self._fail(
            HistoryCorrupt(
                f"{self.path} or its -wal was taken away or replaced while in use; put "
                "both back as they were, or a backup without a -wal and -shm beside it"
            )
        )

    def checks(self) -> list[Check]:
        """Whether the last write could be made."""
        if self._failure is not None:
            return [Check("history", False, str(self._failure))]
        if self._trouble:
            return [
                Check(
                    "history",
                    False,
                    f"{self.path} cannot be written: {self._trouble}",
                    "end the program that holds it (`fuser`), or make room",
                )
            ]
        return [Check("history", True, f"{self.path} can be written")]

    async def close(self) -> None:
        """Let queued transactions end, leave a small file, stop the threads."""
        for reader in self._readers:
            await reader.close()
        if self._failure is None:
            await _call(self._writer, _tidy)
        await self._writer.close()

    @contextmanager
    def _judged(self) -> Iterator[None]:
        """In a thread: remember what the error of a transaction means for the next."""
        try:
            yield
        except sqlite3.Error as error:
            if faults.fatal(error):
                self._fail(faults.ending(self.path, error))
            elif isinstance(error, sqlite3.OperationalError):
                self._trouble = str(error)
                if not faults.locked(error):
                    self._loop.call_soon_threadsafe(self.on_full)
            raise

    def _fail(self, failure: HistoryError) -> None:
        if self._failure is None:
            log.critical("%s", failure)
            self._failure = failure
            self._loop.call_soon_threadsafe(self._announce, failure)

    def _announce(self, failure: HistoryError) -> None:
        if not self._failed.done():
            self._failed.set_result(failure)


def _nothing() -> None:
    """Nobody wants to know."""


def _watch(function: Callable[..., object], moment: Moment) -> None:
    if watcher is not None:
        watcher(f"{function.__module__}.{function.__qualname__}", moment)


def _identities(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Which files on which disk the database and its log are; None: there is none."""
    return _identity(path), _identity(path.with_name(f"{path.name}-wal"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        file = path.stat()
    except FileNotFoundError:
        return None
    return file.st_dev, file.st_ino


def _settle(connection: sqlite3.Connection) -> None:
    """Write every page of what a dead process left in the log, and flush.

    It may have died of a failed flush. Then the kernel shows us pages as written that the
    disk does not hold, and whatever we add behind them would be lost with them.
    """
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    # Whether it can be written at all is better known now than at the first push.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {version(connection)}")
    connection.execute("ROLLBACK")


def _tidy(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("PRAGMA optimize")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        log.warning("the history stays as it is until the next start: %s", error)


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
    work.add_done_callback(_heard)
    return await asyncio.shield(work)


def _heard(work: asyncio.Task[T]) -> None:
    """When nobody waits any more, an error has been judged, and asyncio may forget it."""
    if not work.cancelled():
        work.exception()
