"""A state directory with a history and files, and the upkeep that looks after it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.git import Mirror
from ci.adapters.host import Disk
from ci.config import Settings, parse
from ci.history import paths
from ci.history.database import Database
from ci.models import BuildState, Target
from ci.upkeep import Upkeep
from ci.upkeep.room import Room
from ci.upkeep.watch import places
from tests.fakes import history

DAY = 86_400_000
# The first moment of all histories here.
BEGINNING = 1_795_132_800_000
GIB = 2**30
MOST_CACHE = 1000


@dataclass
class House:
    """`now` is what the clock says, `room` the bytes for logs and for what is free."""

    settings: Settings
    database: Database
    now: int = BEGINNING
    room: int = 50 * GIB

    def __post_init__(self) -> None:
        room = Room(places(self.settings), self._disk)
        self.upkeep = Upkeep(
            self.settings,
            self.database,
            room,
            lambda _repo: Mirror(paths.mirror_path(self.state_dir, 1), "file:///none"),
            wake=lambda: None,
            clock=lambda: self.now,
            most_cache=MOST_CACHE,
        )

    def _disk(self, _path: Path) -> Disk:
        return Disk(100 * GIB, self.room - self._log_bytes(), 10**6)

    def _log_bytes(self) -> int:
        files = (self.state_dir / "logs").glob("*/*/*.log")
        return sum(path.stat().st_size for path in files)

    async def fill(self, free: int) -> None:
        """Somebody else leaves so many bytes free."""
        self.room = free + await asyncio.to_thread(self._log_bytes)

    @property
    def state_dir(self) -> Path:
        return self.settings.state_dir

    async def make_pass(self) -> None:
        """One pass, in which every step does its work."""
        await self.upkeep.make_pass()
        check = self.upkeep.checks()[-1]
        assert check.ok, check

    async def build(
        self,
        *,
        at: int,
        log: int = 10,
        state: BuildState = BuildState.FAILED,
        branch: str | None = "dev",
        targets: Collection[str] = (),
    ) -> int:
        """A build that ended at that time (milliseconds), with a log of so many bytes."""
        number = await self.database.write(_build, at, state, branch, targets)
        self._log(number, log)
        return number

    async def builds(self, ends: Iterable[int], *, log: int = 10) -> None:
        """Failed builds that ended at these times, all in one transaction."""

        def make(connection: sqlite3.Connection) -> list[int]:
            return [_build(connection, at, BuildState.FAILED, "dev", ()) for at in ends]

        for number in await self.database.write(make):
            self._log(number, log)

    def _log(self, number: int, size: int) -> None:
        path = paths.log_path(self.state_dir, number, 1)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)

    def logs(self) -> list[int]:
        """Builds that have a log."""
        found = (self.state_dir / "logs").glob("*/*/*.log")
        return sorted(int(path.parent.name) for path in found)


def open_house(tmp_path: Path, database: Database, **tables: object) -> House:
    document = {
        "state_dir": str(tmp_path),
        "repository": [{"name": history.REPO, "branches": ["dev", "main"]}],
        **tables,
    }
    return House(parse(document), database)


def _build(
    connection: sqlite3.Connection,
    at: int,
    state: BuildState,
    branch: str | None,
    targets: Collection[str],
) -> int:
    connection.execute(
        "INSERT OR IGNORE INTO instances (id, boot_id, pid, pid_start, started_at) "
        "VALUES (1, 'boot', 1, 1, 0)"
    )
    row = connection.execute("SELECT count(*) FROM builds").fetchone()
    (number,) = history.enqueue(connection, row[0] + 1, branch=branch)
    connection.execute(
        "UPDATE builds SET state = ?, attempt = 1, finished_at = ? WHERE number = ?",
        (state, at, number),
    )
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at, finished_at) "
        "VALUES (?, 1, 1, ?, ?)",
        (number, at, at),
    )
    connection.execute("UPDATE outbox SET sent_at = ?", (at,))
    for position, name in enumerate(targets):
        target = Target(name, BuildState.SUCCEEDED)
        connection.execute(
            "INSERT INTO targets (build, name, position, state) VALUES (?, ?, ?, ?)",
            (number, target.name, position, target.state),
        )
    return number
