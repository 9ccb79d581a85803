"""Errors of the disk below SQLite, made by the kernel or by strace in front of it.

A full disk is not the end: who asked is told. A flush that fails is the end of the
process: asking again would prove nothing (ci/history/faults.py).
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from ci.history.database import Database
from ci.history.paths import database_path
from tests.end_to_end.server import World
from tests.fakes.disks import MIB, CannotMount, tmpfs
from tests.fakes.push import sha
from tests.fakes.waiting import PATIENCE
from tests.faults.worlds import mortal_world, push_of

SEED = 20261120
PUSHES = 3
# A server that starts on a history and takes three pushes flushes about eight times.
FLUSHES = range(1, 10)
AT_ONCE = 3


def _write(connection: sqlite3.Connection) -> None:
    connection.executemany(
        "INSERT INTO repositories (name) SELECT hex(randomblob(2000))", [()] * 100
    )


def _rows(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM repositories").fetchone()
    return int(count)


async def _until_full(database: Database) -> None:
    while True:
        await database.write(_write)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    try:
        with tmpfs(tmp_path, 6 * MIB) as mounted:
            yield mounted
    except CannotMount as error:
        pytest.skip(f"a disk that is full at the COMMIT is not tested: {error}")


async def test_a_full_disk_refuses_the_commit_and_ends_nothing(small: Path) -> None:
    async with _opened(small / "history.db") as database:
        told = asyncio.Event()
        database.on_full = told.set
        filler = small / "filler"
        await asyncio.to_thread(filler.write_bytes, bytes(3 * MIB))
        with pytest.raises(sqlite3.OperationalError, match="full"):
            await _until_full(database)
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        (trouble,) = database.checks()
        assert (trouble.ok, "full" in trouble.detail) == (False, True)
        # Nothing of the refused one stays, and what was there can be read.
        count = await database.read(_rows)
        assert count % 100 == 0
        await asyncio.to_thread(filler.unlink)
        await database.write(_write)
        assert await database.read(_rows) == count + 100
        assert [check.ok for check in database.checks()] == [True]


@asynccontextmanager
async def _opened(path: Path) -> AsyncIterator[Database]:
    database = await Database.open(path)
    try:
        yield database
    finally:
        await database.close()


@dataclass
class Run:
    """How a server under an injection ended, and what became of its pushes."""

    injection: str
    code: int | None = None
    said: str = ""
    refused: int = 0
    lost: frozenset[str] = frozenset()

    @property
    def orderly(self) -> bool:
        """It went on or ended by itself in a sentence, and lost nothing."""
        sentence = self.said.startswith("build-server: ")
        return not self.lost and (self.code == 0 or sentence)


async def _run(folder: Path, injection: str) -> Run:
    """One server under strace with this injection; three pushes; a server without it."""
    run = Run(injection)
    async with mortal_world(folder) as world:
        world.build |= {"parallel": 0}
        async with world.server() as server:
            await server.push(sha("first"))
            await server.stop()
        calls = injection.partition(":")[0]
        world.wrapper = (
            *("strace", "-D", "-f", "-qq", "-o", f"{folder}/strace"),
            *("-e", f"trace={calls}", "-e", f"inject={injection}"),
        )
        await _push_some(world, run)
        world.wrapper = ()
        async with world.server() as server:
            await server.push(sha("last"))
            await server.stop()
        with closing(sqlite3.connect(database_path(world.state_dir))) as history:
            rows = {row[0] for row in history.execute("SELECT guid FROM deliveries")}
        run.lost = frozenset(world.acknowledged - rows)
    return run


async def _push_some(world: World, run: Run) -> None:
    try:
        async with world.server() as server:
            with suppress(aiohttp.ClientError, OSError):
                for number in range(PUSHES):
                    body = push_of(sha(number), before=sha(number - 1))
                    status, _ = await server.deliver(body)
                    run.refused += status == 503
            await server.stop()
    except AssertionError as error:
        run.said = str(error).splitlines()[-1]  # it did not start
    else:
        run.code, run.said = server.process.returncode, server.raw[-1]


async def _each(folder: Path, injections: Sequence[str]) -> list[Run]:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, injection: str) -> Run:
        async with free:
            return await _run(folder / str(number), injection)

    return await asyncio.gather(*(one(n, i) for n, i in enumerate(injections)))


@pytest.fixture
def strace() -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace: a flush that fails at each place is not tested")


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("strace")
async def test_whichever_flush_fails_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    runs = await _each(tmp_path, [f"fdatasync:error=EIO:when={n}" for n in FLUSHES])
    assert [run for run in runs if not run.orderly] == []
    # Flushes of a checkpoint may fail unseen, since it is repeated; those of a commit
    # end the process, which has refused what it could not record.
    ended = [run for run in runs if run.code == 1]
    assert len(ended) >= PUSHES, runs
    assert all("SQLITE_IOERR_FSYNC" in run.said for run in ended), ended
    assert any(run.refused for run in ended), ended


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("strace")
async def test_killed_at_any_flush_or_write_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    dice = random.Random(SEED)
    kills = [f"fdatasync:signal=KILL:when={n}" for n in FLUSHES[::2]]
    kills += [f"pwrite64:signal=KILL:when={dice.randrange(2, 40)}" for _ in range(6)]
    runs = await _each(tmp_path, kills)
    assert [run for run in runs if run.lost] == []
    assert len([run for run in runs if run.code != 0]) > len(runs) // 2, runs
