"""Transactions are whole and durable; migrations leave nothing half done."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from ci.errors import HistoryCorrupt, HistoryError, HistoryTooNew
from ci.history.database import (
    Database,
    connect_writer,
    copy_database,
    migrate,
    migrations_directory,
    version,
)


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
