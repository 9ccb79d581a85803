"""When there is room for a build, in which words it is told, and what is held back."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci.adapters.host import Disk
from ci.history.database import Database
from ci.upkeep.ballast import Ballast
from ci.upkeep.room import INODES_LOW, Place, Room
from ci.upkeep.watch import STATE, STORE, DiskWatch
from tests.fakes.small_disk import small_disk
from tests.fakes.waiting import wait_until

MIB = 2**20
GIB = 2**30


@dataclass
class Disks:
    """What the file systems say; an OSError instead is raised."""

    found: dict[str, Disk | OSError] = field(default_factory=dict)

    def set(
        self, key: str, free: float, total: float = GIB, inodes: int = 10**6
    ) -> None:
        self.found[key] = Disk(int(total), int(free), inodes)

    def __call__(self, path: Path) -> Disk:
        found = self.found[path.name]
        if isinstance(found, OSError):
            raise found
        return found


STATE_PLACE = Place(Path("/x/state"), 80 * MIB, STATE, "remove old logs")
STORE_PLACE = Place(Path("/x/store"), 800 * MIB, STORE, "collect garbage")


@pytest.fixture
def disks() -> Disks:
    made = Disks()
    made.set("state", GIB)
    made.set("store", GIB)
    return made


async def test_low_until_there_is_clearly_enough(disks: Disks) -> None:
    room = Room([STATE_PLACE, STORE_PLACE], disks)
    told = []
    for free in (81, 80, 79, 80, 89, 90, 89):
        disks.set("state", free * MIB)
        await room.look()
        told.append(bool(room.reason()))
    assert told == [False, False, True, True, True, False, False]


async def test_each_place_says_where_how_much_and_what_to_do(disks: Disks) -> None:
    room = Room([STATE_PLACE, STORE_PLACE], disks)
    assert room.check().detail == "not looked at yet"
    await room.look()
    assert room.check().ok
    assert room.check().detail == "1 GiB free in /x/state; 1 GiB free in /x/store"
    disks.set("store", 300.5 * MIB)
    await room.look()
    check = room.check()
    assert not check.ok
    assert check.detail == (
        "1 GiB free in /x/state; only 300.5 MiB free in /x/store; "
        "no build begins before 900 MiB are (disk.store_low)"
    )
    assert check.fix == "collect garbage"
    assert room.reason() in check.detail
    assert (room.low(STATE), room.low(STORE)) == (False, True)


async def test_a_disk_that_can_never_have_so_much_says_so(disks: Disks) -> None:
    room = Room([STATE_PLACE], disks)
    disks.set("state", 60 * MIB, total=64 * MIB)
    await room.look()
    told = "that file system has 64 MiB in all: lower disk.state_low"
    assert room.check().fix == told


async def test_inodes_and_disks_that_are_gone(disks: Disks) -> None:
    room = Room([STATE_PLACE], disks)
    disks.set("state", GIB, inodes=INODES_LOW - 1)
    await room.look()
    assert "999 inodes free" in room.reason()
    disks.set("state", GIB, inodes=INODES_LOW + 1)
    await room.look()
    assert room.reason(), "not flapping"
    disks.set("state", GIB, inodes=2 * INODES_LOW)
    await room.look()
    assert not room.reason()
    disks.found["state"] = OSError(5, "Input/output error")
    await room.look()
    assert room.reason() == "/x/state cannot be used: Input/output error"


# The ballast


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_ballast_takes_its_room_for_certain_and_gives_it_back(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "ballast", 3 * MIB)
    ballast.find()
    assert not ballast.present
    ballast.make()
    assert ballast.present
    assert allocated(ballast.path) >= 3 * MIB
    again = Ballast(tmp_path / "ballast", 3 * MIB)
    again.find()
    assert again.present
    larger = Ballast(tmp_path / "ballast", 4 * MIB)
    larger.find()
    assert not larger.present, "another size is another file"
    assert again.release() >= 3 * MIB
    assert again.release() == 0
    assert list(tmp_path.iterdir()) == []


async def test_ballast_for_which_there_is_no_room_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with small_disk(tmp_path, "size=2m") as small:
        ballast = Ballast(small.inside / "ballast", 3 * MIB)
        with pytest.raises(OSError, match="No space left"):
            await asyncio.to_thread(ballast.make)
        assert os.listdir(small.inside) == []
        assert not ballast.present


# What is done about it


@dataclass
class Bell:
    rung: int = 0

    def __call__(self) -> None:
        self.rung += 1


@dataclass
class Case:
    disks: Disks
    watch: DiskWatch
    more: Bell
    less: Bell

    @property
    def said(self) -> tuple[int, int]:
        return self.more.rung, self.less.rung


@pytest.fixture
def case(disks: Disks, tmp_path: Path) -> Case:
    more, less = Bell(), Bell()
    room = Room([STATE_PLACE, STORE_PLACE], disks)
    ballast = Ballast(tmp_path / "ballast", 8 * MIB)
    return Case(disks, DiskWatch(room, ballast, more, less), more, less)


async def test_news_is_told_once(case: Case) -> None:
    await case.watch.look()
    assert case.said == (0, 0)
    for free, said in ((70, (0, 1)), (60, (0, 1)), (85, (0, 1)), (95, (1, 1))):
        case.disks.set("state", free * MIB)
        await case.watch.look()
        assert case.said == said
    case.disks.set("store", 1 * MIB)
    # Somebody else may look first.
    await case.watch.room.look()
    await case.watch.look()
    assert case.said == (1, 2)
    assert case.watch.missing() == 90 * MIB + 8 * MIB - 95 * MIB, "state_dir's alone"


async def test_the_ballast_goes_when_next_to_nothing_is_left(case: Case) -> None:
    await asyncio.to_thread(case.watch.ballast.make)
    case.disks.set("state", 2 * MIB)
    await case.watch.look()
    assert case.watch.ballast.present
    assert case.watch.missing_to_record() == 0
    case.disks.set("state", 1 * MIB - 1)
    await case.watch.look()
    assert not case.watch.ballast.path.exists()
    assert case.watch.missing_to_record() == 7 * MIB + 1
    assert case.watch.missing() == 98 * MIB - 1 * MIB + 1


async def test_the_ballast_goes_when_a_write_has_failed(
    case: Case, database: Database
) -> None:
    """SQLite really finds no room: its file may not grow."""
    await asyncio.to_thread(case.watch.ballast.make)
    case.disks.set("state", 95 * MIB)
    watching = asyncio.create_task(case.watch.run())
    database.on_full = case.watch.full
    await database.write(_no_room)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await database.write(_much)
    path = case.watch.ballast.path
    await wait_until(lambda: case.less.rung, what="somebody told")
    assert not path.exists()
    case.disks.set("state", GIB)
    case.watch.full()
    await wait_until(path.exists, what="the ballast again")
    watching.cancel()
    await asyncio.wait([watching])


def _no_room(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def _much(connection: sqlite3.Connection) -> None:
    connection.executemany(
        "INSERT INTO repositories (name) VALUES (?)",
        [(f"{number:0200d}",) for number in range(1000)],
    )


@pytest.mark.parametrize(
    ("free", "made"), [(98 * MIB - 1, False), (98 * MIB, True), (GIB, True)]
)
async def test_the_ballast_is_made_when_enough_is_left_beside_it(
    case: Case, free: int, made: bool
) -> None:
    case.disks.set("state", free)
    watching = asyncio.create_task(case.watch.run())
    await wait_until(lambda: case.watch.room.seen(STATE) is not None)
    # Not at once: a start has better things to do.
    assert not case.watch.ballast.path.exists()
    case.watch.full()
    await wait_until(_settled(case, made), what="what was to happen")
    watching.cancel()
    await asyncio.wait([watching])
    assert case.watch.ballast.path.exists() is made


def _settled(case: Case, made: bool) -> Callable[[], bool]:
    if made:
        return lambda: case.watch.ballast.present
    # It has asked for room: once for the failed write, once for the ballast.
    return lambda: case.less.rung >= 2
