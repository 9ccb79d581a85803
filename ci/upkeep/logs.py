"""Log files that have had their time, or for which there is no room any more."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ci.adapters.logs import index_path
from ci.config import Settings
from ci.history import logs as rows, paths, retention
from ci.history.database import Database
from ci.history.logs import Log
from ci.upkeep.folders import prune_empty
from ci.upkeep.room import size
from ci.upkeep.watch import DiskWatch

DAY = 86400.0
# So many at a time when the disk is asked after each time.
FEW = 50


@dataclass
class Logs:
    """Removes logs; `total` is what all take in bytes, `removed` how many went so far."""

    settings: Settings
    database: Database
    watch: DiskWatch
    total: int = 0
    removed: int = 0

    async def measure(self) -> None:
        """Note the sizes of new logs, and finish what a dead server began."""
        while found := await self.database.read(rows.unmeasured):
            sizes = await asyncio.to_thread(self._sizes, found)
            await self.database.write(rows.measured, sizes)
        await self._unlink(await self.database.read(rows.condemned))
        self.total = await self.database.read(rows.total)

    def _there(self, logs: Sequence[Log]) -> list[Log]:
        """Those that are on the disk, as large as they are."""
        found = [
            replace(log, size=_size(self._path(log.build, log.attempt))) for log in logs
        ]
        return [log for log in found if log.size]

    def _sizes(self, found: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
        return [
            (_size(self._path(build, attempt)), build, attempt)
            for build, attempt in found
        ]

    async def trim(self, spared: Collection[int], now: int) -> None:
        """Remove what is older than `logs_for`, and the oldest beyond `logs_size`."""
        limits = self.settings.retention
        before = now - int(limits.logs_for * 1000)
        aged = f"it was older than retention.logs_for ({limits.logs_for / DAY:g} days)"
        many = f"all logs took more than retention.logs_size ({size(limits.logs_size)})"
        while True:
            found = await self.database.read(rows.old_logs, spared)
            old = [log for log in found if log.ended_at < before]
            # In order of age: of the others those come first that are next to go.
            over = self.total - limits.logs_size - sum(log.size for log in old)
            beyond = as_much_as(found[len(old) :], over)
            await self._remove(old, spared, aged)
            await self._remove(beyond, spared, many)
            if len(old) + len(beyond) < retention.BATCH:
                return

    async def make_room(self, spared: Collection[int]) -> None:
        """Remove the oldest logs until builds can begin again.

        Where all that may go would not be enough for that, somebody else has filled the
        disk: then only as many go as let the history record.
        """
        logs = await self.database.read(rows.all_old_logs, spared)
        logs = await asyncio.to_thread(self._there, logs)
        there = sum(log.size for log in logs)
        helps = (
            there >= self.watch.missing() and len(logs) >= self.watch.missing_inodes()
        )
        watch = self.watch
        lacking = watch.missing if helps else watch.missing_to_record
        while logs and lacking():
            some = logs if watch.missing_inodes() else as_much_as(logs, lacking())
            some = some[:FEW]
            logs = logs[len(some) :]
            await self._remove(some, spared, "the disk was full")
            await self.watch.room.look()

    async def _remove(
        self, logs: Sequence[Log], spared: Collection[int], why: str
    ) -> None:
        if not logs:
            return
        said = f"on {datetime.now(UTC):%Y-%m-%d} because {why}"
        try:
            going = await self.database.write(rows.condemn, logs, spared, said)
        except sqlite3.OperationalError:
            if not self.watch.missing():
                raise
            # Nothing can be recorded, so that none can have been pinned since, either.
            await asyncio.to_thread(self._remove_files, logs)
            going = await self.database.write(rows.condemn, logs, spared, said)
        await self._unlink(going)

    async def _unlink(self, logs: Sequence[Log]) -> None:
        if not logs:
            return
        await asyncio.to_thread(self._remove_files, logs)
        gone = [(0, log.build, log.attempt) for log in logs]
        await self.database.write(rows.measured, gone)
        self.total -= sum(log.size for log in logs)
        self.removed += len(logs)

    def _remove_files(self, logs: Sequence[Log]) -> None:
        top = self.settings.state_dir / "logs"
        for log in logs:
            path = self._path(log.build, log.attempt)
            index_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            prune_empty(path.parent, top)

    def _path(self, build: int, attempt: int) -> Path:
        return paths.log_path(self.settings.state_dir, build, attempt)


def as_much_as(logs: Sequence[Log], wanted: int) -> list[Log]:
    """The first of `logs` that have `wanted` bytes together; none when that is 0 or less."""
    found: list[Log] = []
    for log in logs:
        if wanted <= 0:
            break
        found.append(log)
        wanted -= log.size
    return found


def _size(path: Path) -> int:
    """Bytes of a log with its index."""
    return sum(_file_size(each) for each in (path, index_path(path)))


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
