"""Transactions are whole and durable; migrations leave nothing half done."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ci.errors import HistoryCorrupt, HistoryError, HistoryTooNew
from ci.history import soundness
from ci.history.copies import copy_database
from ci.history.database import Database, connect_writer
from ci.history.schema import migrate, migrations_directory, version
from tests.fakes.waiting import PATIENCE, wait_until

PAGE = 4096


def _pair(connection: sqlite3.Connection, name: str) -> None:
    """Two rows that must never be seen alone, with work between them."""
    connection.execute("INSERT INTO repositories (name) VALUES (?)", (f"{name}-a",))
    connection.execute(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
        "WHERE n < 2000) SELECT count(*) FROM c"
    ).fetchone()
    connection.execute("INSERT INTO repositories (name) VALUES (?)", (f"{name}-b",))


async def test_random_cancellations_never_tear_a_transaction(
    database: Database,
) -> None:
    dice = random.Random(20261120)

    async def one(number: int) -> None:
        with suppress(asyncio.CancelledError):
            await database.write(_pair, str(number))

    tasks = [asyncio.create_task(one(number)) for number in range(400)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(dice.random() / 500)
        dice.choice(tasks).cancel()
    await database.write(_pair, "last")

    names = await database.read(
        lambda c: {row["name"] for row in c.execute("SELECT name FROM repositories")}
    )
    whole = {name[:-2] for name in names}
    assert names == {f"{name}-{half}" for name in whole for half in "ab"}
    assert "last" in whole
    assert len(whole) > 1


async def test_an_error_rolls_everything_back_and_the_next_write_works(
    database: Database,
) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        _pair(connection, "x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(fails)
    await database.write(_pair, "y")
    rows = await database.read(
        lambda c: [row["name"] for row in c.execute("SELECT name FROM repositories")]
    )
    assert rows == ["y-a", "y-b"]


async def test_readers_cannot_write_and_the_writer_flushes_each_commit(
    database: Database,
) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await database.read(_pair, "x")

    def pragmas(connection: sqlite3.Connection) -> tuple[object, ...]:
        return tuple(
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        )

    full = 2
    assert await database.write(pragmas) == ("wal", full, 1)


def test_a_failing_migration_leaves_nothing_of_itself(tmp_path: Path) -> None:
    steps = tmp_path / "migrations"
    steps.mkdir()
    (steps / "0001_one.sql").write_text("CREATE TABLE one (x INTEGER) STRICT;")
    (steps / "0002_two.sql").write_text(
        "CREATE TABLE two (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);"
    )
    connection = connect_writer(tmp_path / "db")
    with pytest.raises(HistoryError, match=r"0002_two\.sql failed and left nothing"):
        migrate(connection, steps)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
    assert (version(connection), tables) == (1, ["one"])
    connection.close()


@pytest.fixture
def next_version(tmp_path: Path) -> tuple[Path, int]:
    """The migrations of a version that comes after this one, and this one's number."""
    steps = tmp_path / "migrations"
    steps.mkdir()
    for file in migrations_directory().iterdir():
        (steps / file.name).write_text(file.read_text())
    newest = max(int(file.name[:4]) for file in steps.iterdir())
    (steps / f"{newest + 1:04d}_more.sql").write_text("CREATE TABLE more (x) ;")
    return steps, newest


async def test_an_upgrade_keeps_a_copy_and_a_newer_database_is_refused(
    tmp_path: Path, next_version: tuple[Path, int]
) -> None:
    steps, newest = next_version
    path = tmp_path / "db"
    await (await Database.open(path)).close()
    await (await Database.open(path, directory=steps)).close()

    copy = await asyncio.to_thread(
        connect_writer, tmp_path / f"db.before-upgrade-from-{newest}"
    )
    assert await asyncio.to_thread(version, copy) == newest
    await asyncio.to_thread(copy.close)
    with pytest.raises(HistoryTooNew, match="written by a newer build-server"):
        await Database.open(path)


async def test_a_file_that_is_no_database_is_refused_in_a_sentence(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(HistoryCorrupt, match="put back a backup"):
        await Database.open(path)


async def test_a_backup_opens_and_never_replaces_a_file(
    database: Database, tmp_path: Path
) -> None:
    await database.write(_pair, "kept")
    target = tmp_path / "backup.db"
    await asyncio.to_thread(copy_database, database.path, target)
    with pytest.raises(HistoryError, match="exists already"):
        await asyncio.to_thread(copy_database, database.path, target)
    copy = await Database.open(target)
    rows = await copy.read(
        lambda c: [row["name"] for row in c.execute("SELECT name FROM repositories")]
    )
    await copy.close()
    assert rows == ["kept-a", "kept-b"]


async def _failure(database: Database) -> str:
    """Why the database must not be used any more, as soon as `guard` has seen it."""
    guard = asyncio.create_task(database.guard(after=0, every=0.01))
    try:
        async with asyncio.timeout(PATIENCE):
            return str(await database.failed())
    finally:
        guard.cancel()
        await asyncio.gather(guard, return_exceptions=True)


@pytest.mark.parametrize("name", ["db", "db-wal"])
async def test_a_file_that_is_replaced_while_in_use_ends_the_process(
    tmp_path: Path, name: str
) -> None:
    database = await Database.open(tmp_path / "db")
    try:
        await database.write(_pair, "kept")
        watching = asyncio.create_task(_failure(database))

        def seen() -> bool:
            """Replace it once more, if need be, so that it happens after a look."""
            if not watching.done():
                other = tmp_path / "other"
                other.write_bytes((tmp_path / name).read_bytes())
                other.replace(tmp_path / name)
            return watching.done()

        await wait_until(seen, what="the guard to notice")
        assert "was taken away or replaced while in use" in await watching
        with pytest.raises(sqlite3.OperationalError, match="nothing is recorded"):
            await database.write(_pair, "lost")
    finally:
        await database.close()


def _large(path: Path) -> None:
    """A history too large for the start, with damaged pages in its second half."""
    with closing(connect_writer(path)) as connection:
        migrate(connection, migrations_directory())
        connection.execute(
            "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c "
            "WHERE n < 5000) INSERT INTO repositories (name) "
            "SELECT n || hex(randomblob(2000)) FROM c"
        )
    size = path.stat().st_size
    assert size > soundness.AT_ONCE
    with path.open("r+b") as file:
        for page in range(size // PAGE // 2, size // PAGE, 3):
            file.seek(page * PAGE)
            file.write(bytes(64))


async def test_a_large_history_is_looked_through_while_it_is_used(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    await asyncio.to_thread(_large, path)
    database = await Database.open(path)
    try:
        assert "is damaged" in await _failure(database)
    finally:
        await database.close()


async def test_after_damage_was_met_the_next_start_looks_through_all(
    tmp_path: Path,
) -> None:
    path = tmp_path / "db"
    await asyncio.to_thread(_large, path)
    database = await Database.open(path)
    with pytest.raises(sqlite3.DatabaseError):
        await database.read(
            lambda c: [
                c.execute("SELECT name FROM repositories NOT INDEXED").fetchall(),
                c.execute("SELECT name FROM repositories ORDER BY name").fetchall(),
            ]
        )
    assert "this process ends" in str(await database.failed())
    await database.close()
    with pytest.raises(HistoryCorrupt, match="is damaged"):
        await Database.open(path)


async def test_a_start_writes_again_what_a_dead_process_left_in_the_log(
    tmp_path: Path,
) -> None:
    """Its last flush may have failed; what is added behind it would be lost with it."""
    first = await Database.open(tmp_path / "db")
    await first.write(_pair, "left")
    (tmp_path / "dead").mkdir()
    for name in ("db", "db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "dead" / name)
    await first.close()

    second = await Database.open(tmp_path / "dead/db")
    shutil.copy(tmp_path / "dead/db", tmp_path / "without-log")
    await second.close()
    with closing(sqlite3.connect(tmp_path / "without-log")) as flushed:
        assert flushed.execute("SELECT count(*) FROM repositories").fetchone() == (2,)


async def test_a_letter_that_the_disk_has_changed_keeps_nobody_from_the_rest(
    tmp_path: Path,
) -> None:
    database = await Database.open(tmp_path / "db")
    await database.write(
        lambda c: c.execute(
            "INSERT INTO repositories (name) VALUES (CAST(x'61ff62' AS TEXT))"
        )
    )
    names = await database.read(
        lambda c: [row["name"] for row in c.execute("SELECT name FROM repositories")]
    )
    await database.close()
    assert names == ["a\ufffdb"]
