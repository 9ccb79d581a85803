"""One pass: what has had its time goes, what is precious stays, faults are told."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from ci.adapters.logs import index_path
from ci.errors import HistoryError
from ci.history import logs, paths, pins, repositories, retention
from ci.history.database import Database, connect_reader
from ci.models import BuildState
from ci.upkeep import backup, folders
from tests.fakes.history import REPO
from tests.fakes.waiting import PATIENCE, wait_until
from tests.upkeep.house import BEGINNING, DAY, House, open_house

MIB = 2**20


@pytest.fixture
def house(tmp_path: Path, database: Database) -> House:
    return open_house(tmp_path, database, retention={"logs_for": "30d"})


async def test_old_logs_go_but_not_the_last_green_nor_pinned_ones(house: House) -> None:
    green = await house.build(at=BEGINNING, state=BuildState.SUCCEEDED)
    pinned = await house.build(at=BEGINNING)
    old = await house.build(at=BEGINNING)
    young = await house.build(at=BEGINNING + 20 * DAY)
    last = await house.build(at=BEGINNING)
    await house.database.write(pins.pin, pinned, by="Ada", at=0)
    house.now = BEGINNING + 20 * DAY
    await house.make_pass()
    assert house.logs() == [green, pinned, old, young, last]
    house.now = BEGINNING + 31 * DAY
    await house.build(at=house.now)
    await house.make_pass()
    assert old not in house.logs()
    assert {green, pinned, young} < set(house.logs())
    why = await house.database.read(logs.why_removed, old, 1)
    assert why
    assert why.endswith("because it was older than retention.logs_for (30 days)")
    assert not paths.log_path(house.state_dir, old, 1).parent.exists()


async def test_a_clock_that_jumps_ahead_makes_nothing_old(house: House) -> None:
    old = await house.build(at=BEGINNING)
    await house.build(at=BEGINNING)
    house.now = BEGINNING + 40 * 365 * DAY
    for _ in range(3):
        await house.make_pass()
    assert old in house.logs(), "40 years, of which nothing here knows"
    # Once something has happened then, it is believed.
    await house.build(at=house.now)
    await house.make_pass()
    assert old not in house.logs()


async def test_logs_take_no_more_than_they_may(
    tmp_path: Path, database: Database
) -> None:
    house = open_house(tmp_path, database, retention={"logs_size": 1000})
    # The later the number, the earlier it ended.
    await house.builds(BEGINNING - number for number in range(250))
    await house.make_pass()
    # One more is spared: the newest of the branch, which ended first.
    assert house.logs() == [*range(1, 100), 250]
    await house.build(at=BEGINNING + 1, log=900)
    await house.make_pass()
    assert house.logs() == [*range(1, 11), 251]


async def test_the_index_of_a_log_counts_and_goes_with_it(
    tmp_path: Path, database: Database
) -> None:
    house = open_house(tmp_path, database, retention={"logs_size": 1000})
    await house.builds(range(BEGINNING, BEGINNING + 30))
    first, last = (paths.log_path(tmp_path, number, 1) for number in (1, 30))
    index_path(first).write_bytes(b"x" * 10)
    index_path(last).write_bytes(b"x" * 695)
    await house.make_pass()
    assert house.logs() == list(range(2, 31)), "1005 bytes with both, 20 of the first"
    assert not first.parent.exists()
    assert index_path(last).exists()


async def test_builds_beyond_the_limit_leave_nothing_behind(
    tmp_path: Path, database: Database
) -> None:
    house = open_house(tmp_path, database, retention={"builds": 100})
    await house.builds(range(BEGINNING, BEGINNING + 215))
    roots = [
        paths.root_path(tmp_path, 1, "dev", "packages.a", number) for number in (5, 210)
    ]
    for root in roots:
        root.mkdir(parents=True)
        (root / "out").symlink_to("/nix/store/x")
    await house.make_pass()
    assert house.logs() == list(range(116, 216))
    assert await database.read(retention.excess, 100) == 0
    assert await database.read(retention.removed_builds) == []
    there = [(root / "out").is_symlink() for root in roots]
    assert there == [False, True]


async def test_what_a_dead_server_began_is_finished(house: House) -> None:
    first = await house.build(at=BEGINNING)
    second = await house.build(at=BEGINNING)
    third = await house.build(at=BEGINNING)
    log = logs.Log(first, 1, 10, BEGINNING)
    await house.database.write(logs.condemn, [log], (), "on a whim")
    # Killed after the rows of the second had gone.
    await house.database.write(retention.remove_builds, [second], ())
    assert house.logs() == [first, second, third]
    await house.make_pass()
    assert house.logs() == [third]


async def test_without_knowing_what_stays_nothing_goes(house: House) -> None:
    await house.builds([BEGINNING, BEGINNING])
    house.now = BEGINNING + 90 * DAY
    await house.build(at=house.now)
    await house.database.write(
        lambda c: c.execute("ALTER TABLE branch_commits RENAME TO mislaid")
    )
    await house.upkeep.make_pass()
    check = house.upkeep.checks()[-1]
    assert not check.ok
    assert "choosing what stays" in check.detail
    assert house.logs() == [1, 2, 3]


# A full disk


def low_house(tmp_path: Path, database: Database) -> House:
    limits = {"state_low": "80MiB", "ballast": "8MiB"}
    return open_house(tmp_path, database, disk=limits)


@pytest.mark.parametrize(("free", "first"), [(72, 27), (88, 11), (98, 1)])
async def test_logs_make_room_as_long_as_it_is_missing(
    tmp_path: Path, database: Database, free: int, first: int
) -> None:
    """90 MiB are enough after 80 were not, and 8 MiB are for the ballast."""
    house = low_house(tmp_path, database)
    await house.builds(range(BEGINNING, BEGINNING + 30), log=MIB)
    cache = paths.cache_path(tmp_path, 1)
    cache.mkdir(parents=True)
    await house.fill(free * MIB)
    await house.make_pass()
    assert house.logs() == list(range(first, 31))
    assert cache.exists() is (free >= 80), "what can be made again goes first"
    assert house.upkeep.watch.missing() == 0


async def test_logs_stay_when_somebody_else_has_filled_the_disk(
    tmp_path: Path, database: Database
) -> None:
    house = low_house(tmp_path, database)
    await asyncio.to_thread(house.upkeep.watch.ballast.make)
    await house.builds(range(BEGINNING, BEGINNING + 15), log=MIB)
    await house.fill(40 * MIB)
    await house.make_pass()
    assert len(house.logs()) == 15
    # Not even the history can be written: as many go as the ballast would be.
    await asyncio.to_thread(house.upkeep.watch.ballast.release)
    await house.fill(1 * MIB)
    await house.make_pass()
    assert house.logs() == list(range(8, 16))


# What else lies about


async def test_results_of_what_is_built_no_more_are_let_go(house: House) -> None:
    def root(branch: str | None, target: str, number: int, days: int) -> Path:
        path = paths.root_path(house.state_dir, 1, branch, target, number)
        path.mkdir(parents=True)
        (path / "out").symlink_to("/nix/store/x")
        seconds = (BEGINNING + days * DAY) / 1000
        os.utime(path, (seconds, seconds))
        return path

    green = await house.build(
        at=BEGINNING + 40 * DAY, state=BuildState.SUCCEEDED, targets=["packages.a"]
    )
    await house.database.write(pins.pin, green, by="Ada", at=0)
    # Built for another branch once, and the newest of one that is watched.
    newest = await house.build(
        at=BEGINNING + 40 * DAY, state=BuildState.SUCCEEDED, targets=["packages.a"]
    )
    stay = [
        root("dev", "packages.a", 7, days=0),
        root("dev", "packages.former", 8, days=20),
        root("former", "packages.a", green, days=0),
        root("former", "packages.a", newest, days=0),
        root(None, "packages.a", 9, days=20),
    ]
    go = [
        root("dev", "packages.former", 7, days=0),
        root("former", "packages.a", 6, days=0),
        root(None, "packages.a", 5, days=0),
        root("main", "packages.a", 4, days=0),
    ]
    house.now = BEGINNING + 40 * DAY
    await house.make_pass()
    assert [path.name for path in stay if not path.exists()] == []
    assert [path for path in go if path.parent.exists() and path.exists()] == []
    assert not go[3].parent.exists(), "nor are empty folders left"


async def test_repositories_that_left_the_configuration_have_a_week(
    house: House,
) -> None:
    numbers = await house.database.write(repositories.ensure, ["owner/former", REPO])
    former, present = numbers["owner/former"], numbers[REPO]
    places = [
        where(house.state_dir, number)
        for number in (former, present)
        for where in (paths.mirror_path, paths.cache_path)
    ]
    for path in places:
        (path / "objects").mkdir(parents=True)
    for days, left in ((0, 4), (6, 4), (8, 2)):
        house.now = BEGINNING + days * DAY
        await house.build(at=house.now)
        await house.make_pass()
        assert sum(path.exists() for path in places) == left, days
    assert places[2].exists()
    assert not list(house.state_dir.glob("mirrors/.*"))
    # It comes back, and has a week again.
    await house.database.write(retention.note_configured, [former], house.now)
    assert former not in await house.database.read(
        retention.unconfigured, house.now - 7 * DAY
    )


async def test_caches_that_have_grown_large_are_begun_anew(house: House) -> None:
    running = await house.build(at=BEGINNING, state=BuildState.RUNNING)
    for repository, size in ((1, 2000), (2, 2000), (3, 900)):
        path = paths.cache_path(house.state_dir, repository) / "nix/gitv3/pack"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    await house.make_pass()
    assert running
    left = sorted(path.name for path in (house.state_dir / "cache").iterdir())
    assert left == ["1", "3"], "the first is being built with"


async def test_logs_that_no_build_has_go_with_age(house: House) -> None:
    """An older backup was put back: the history does not know the later builds."""
    known = await house.build(at=BEGINNING)
    old, young = 2007, 2008
    for number, days in ((known, 0), (old, 0), (young, 20)):
        log = paths.log_path(house.state_dir, number, 1)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        seconds = (BEGINNING + days * DAY) / 1000
        os.utime(log.parent, (seconds, seconds))
    house.now = BEGINNING + 40 * DAY
    await house.build(at=house.now)
    await house.make_pass()
    assert old not in house.logs()
    assert young in house.logs()


async def test_leftovers_of_commands_and_of_upgrades(house: House) -> None:
    closed = house.state_dir / "checkouts/7/closed"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    closed.chmod(0o500)
    grave = house.state_dir / "cache/3.damaged"
    grave.mkdir(parents=True)
    for version in (1, 2, 10):
        (house.state_dir / f"history.db.before-upgrade-from-{version}").touch()
    await asyncio.to_thread(folders.set_leftovers_aside, house.state_dir)
    assert list((house.state_dir / "checkouts").iterdir()) == []
    await house.make_pass()
    names = {path.name for path in house.state_dir.iterdir()}
    assert {name for name in names if name.startswith(".")} == set()
    assert list(grave.parent.iterdir()) == []
    copies = {name for name in names if "upgrade" in name}
    assert copies == {"history.db.before-upgrade-from-10"}


# The daily copy


def known(copy: Path) -> int:
    """How many builds a copy knows; it must be sound."""
    with closing(connect_reader(copy)) as connection:
        checked = connection.execute("PRAGMA integrity_check").fetchone()[0]
        assert checked == "ok"
        found: int = connection.execute("SELECT count(*) FROM builds").fetchone()[0]
        return found


async def test_a_copy_every_day_and_the_one_before(house: House) -> None:
    last = paths.backup_path(house.state_dir)
    before = last.with_name("history.db.1")
    house.now = int(time.time() * 1000)
    for day in range(3):
        await house.build(at=BEGINNING)
        await house.make_pass()
        await house.build(at=BEGINNING)
        await house.make_pass()
        assert await asyncio.to_thread(known, last) == 2 * day + 1
        two_days_ago = time.time() - 2 * backup.EVERY
        os.utime(last, (two_days_ago, two_days_ago))
    assert await asyncio.to_thread(known, before) == 3
    assert sorted(path.name for path in last.parent.iterdir()) == [
        "history.db",
        "history.db.1",
    ]


async def test_no_copy_where_there_is_no_room(house: House) -> None:
    await house.fill(house.settings.disk.state_low)
    await house.make_pass()
    assert not paths.backup_path(house.state_dir).exists()


async def test_a_copy_that_fails_leaves_the_last_one(house: House) -> None:
    last = paths.backup_path(house.state_dir)
    last.parent.mkdir()
    last.write_bytes(b"yesterday's")
    os.utime(last, (0, 0))
    damaged = house.state_dir / "damaged.db"
    damaged.write_bytes(b"x" * 8192)
    with pytest.raises(HistoryError, match=r"the daily copy .* failed"):
        await backup.copy(damaged, last)
    assert last.read_bytes() == b"yesterday's"
    assert [path.name for path in last.parent.iterdir()] == ["history.db"]


class Held(threading.Event):
    """Holds the copy that looks at it until it is set."""

    def __init__(self) -> None:
        super().__init__()
        self.looked_at = threading.Event()

    def is_set(self) -> bool:
        self.looked_at.set()
        self.wait()
        return super().is_set()


async def test_a_copy_delays_nobody_and_ends_when_the_server_does(house: House) -> None:
    await house.database.write(_grow)
    last, held = paths.backup_path(house.state_dir), Held()
    copying = asyncio.create_task(backup.copy(house.database.path, last, stop=held))
    assert await asyncio.to_thread(held.looked_at.wait, PATIENCE)
    part = last.with_name(".history.db.new.part")
    assert part.exists()
    await house.build(at=BEGINNING)
    assert not copying.done()
    copying.cancel()
    await asyncio.wait([copying])
    await wait_until(lambda: not part.exists(), what="the copy ended")
    assert not last.exists()


def _grow(connection: sqlite3.Connection) -> None:
    """About 65 MiB."""
    connection.execute(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 60000)"
        " INSERT INTO deliveries (hook_id, guid, event, received_at, body_sha256, "
        "accepted, reason) SELECT '1', n, 'push', 0, '', 0, hex(zeroblob(500)) FROM c"
    )
