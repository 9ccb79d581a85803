"""Rows that have had their time, removed in transactions that no push has to wait for."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.config import Settings
from ci.history import paths, retention
from ci.history.database import Database
from ci.history.retention import Branches
from ci.upkeep.folders import prune_empty

# Seconds between two transactions: as long as one may take.
PAUSE = 0.02

Choose = Callable[[sqlite3.Connection, int], list[int]]
Remove = Callable[[sqlite3.Connection, Sequence[int]], list[int]]


@dataclass
class Rows:
    """Removes rows; `removed` is how many builds went so far."""

    settings: Settings
    database: Database
    branches: Branches
    removed: int = 0

    async def builds(self, spared: Collection[int]) -> None:
        """Remove the builds that ended first, down to `retention.builds`."""
        limit = self.settings.retention.builds
        over = await self.database.read(retention.excess, limit)
        while over > 0:
            wanted = min(over, retention.BATCH)
            found = await self.database.read(retention.old_builds, spared, wanted)
            await self._remove(found, self._remove_builds)
            await self.files()
            if len(found) < wanted:
                return
            over -= len(found)

    def _remove_builds(
        self, connection: sqlite3.Connection, numbers: Sequence[int]
    ) -> list[int]:
        return retention.remove_builds(connection, numbers, self.branches)

    async def files(self) -> None:
        """Remove what removed builds left on the disk, as long as there is any."""
        while found := await self.database.read(retention.removed_builds):
            await asyncio.to_thread(self._remove_files, found)
            numbers = [number for number, _ in found]
            await self.database.write(retention.forget_removed, numbers)
            self.removed += len(found)

    async def strays(self, before: int) -> None:
        """Remove logs of builds that the history does not know, if they are older.

        An older backup was put back once: nothing but their age speaks for them now.
        """
        top = self.settings.state_dir / "logs"
        found = await asyncio.to_thread(_old_logs, top, before)
        unknown = await self.database.read(retention.unknown, found)
        await asyncio.to_thread(self._remove_files, [(number, 0) for number in unknown])

    def _remove_files(self, builds: Sequence[tuple[int, int]]) -> None:
        state_dir = self.settings.state_dir
        for number, repository in builds:
            folder = paths.log_path(state_dir, number, 1).parent
            shutil.rmtree(folder, ignore_errors=True)
            prune_empty(folder.parent, state_dir / "logs")
            roots = state_dir / "roots" / str(repository)
            for root in roots.glob(f"*/*/{number}"):
                shutil.rmtree(root)
                prune_empty(root.parent, state_dir / "roots")

    async def told(self, before: int) -> None:
        """Remove what was told, asked and answered before that time (milliseconds)."""
        work: list[tuple[Choose, Remove]] = [
            (retention.old_deliveries, retention.remove_deliveries),
            (retention.old_statuses, retention.remove_statuses),
        ]
        for choose, remove in work:
            while found := await self.database.read(choose, before):
                await self._remove(found, remove)
        for remove_some in (
            retention.remove_answered,
            retention.remove_missed,
            retention.remove_instances,
        ):
            more = True
            while more:
                removed = await self.database.write(remove_some, before)
                more = removed == retention.BATCH
                await asyncio.sleep(PAUSE)

    async def _remove(self, ids: Sequence[int], remove: Remove) -> None:
        """Remove all of `ids`, as many at a time as `remove` deals with."""
        while ids:
            done = await self.database.write(remove, ids)
            ids = ids[len(done) :]
            await asyncio.sleep(PAUSE)


def _old_logs(top: Path, before: int) -> list[int]:
    """Builds whose folder of logs was last changed before that time (milliseconds)."""
    return [
        int(folder.name)
        for folder in top.glob("[0-9]*/[0-9]*")
        if folder.name.isdigit() and folder.stat().st_mtime * 1000 < before
    ]
