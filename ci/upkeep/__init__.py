"""Looking after what the server leaves on the disk, so that nothing grows without bound.

Composition level: it knows the history, the adapters and the configuration, and no
department. `watch.py` sees how full the disk is; what is removed is decided here, in
passes: a minute after the start, every hour, after many builds, and as soon as there is
less room than there should be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.adapters.metrics import Metrics
from ci.config import Settings
from ci.config.limits import Retention
from ci.history import paths, pins, repositories, retention
from ci.history.database import Database
from ci.models import Check, rfc3339
from ci.upkeep import backup, folders
from ci.upkeep.ballast import Ballast
from ci.upkeep.logs import Logs
from ci.upkeep.room import Room
from ci.upkeep.rows import Rows
from ci.upkeep.watch import STATE, STORE, DiskWatch

log = logging.getLogger(__name__)

# Bytes of Nix's cache of one repository; looked at once a day.
MOST_CACHE = 4 * 2**30
# What left the configuration may come back within a week.
GRACE = 7 * 86400.0
# A clock that jumps ahead must not make everything old: time is believed to be at most so
# much later than the newest thing that happened here.
BELIEVED = 3 * 86400.0

Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Rhythm:
    """When there is a pass: seconds, and builds that have ended since the last one.

    `apart` is the shortest time between two: each failed write asks for one.
    """

    first: float = 60.0
    every: float = 3600.0
    while_low: float = 120.0
    apart: float = 5.0
    builds: int = 100


class Upkeep:
    """`run` and `watch.run` are to be kept running; `watch.room` says what may begin."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        room: Room,
        mirrors: Callable[[str], Mirror],
        wake: Callable[[], None],
        rhythm: Rhythm | None = None,
        clock: Callable[[], int] = now_ms,
        most_cache: int = MOST_CACHE,
    ) -> None:
        ballast = Ballast(paths.ballast_path(settings.state_dir), settings.disk.ballast)
        self.watch = DiskWatch(room, ballast, on_more=wake, on_less=self.ask)
        self._settings = settings
        self._database = database
        self._mirrors = mirrors
        self._rhythm = rhythm or Rhythm()
        self._clock = clock
        self._most_cache = most_cache
        self._branches = [
            (repository.name, branch)
            for repository in settings.repositories
            for branch in repository.branches
        ]
        self._logs = Logs(settings, database, self.watch)
        self._rows = Rows(settings, database, self._branches)
        database.on_full = self.watch.full
        self._asked = asyncio.Event()
        self._ended = 0
        self._spared: frozenset[int] = frozenset()
        self._passed_at: int | None = None
        self._troubles: dict[str, str] = {}
        self._weigh_at = 0.0

    def ask(self) -> None:
        """Have a pass soon."""
        self._asked.set()

    def build_ended(self, _state: str, _seconds: float) -> None:
        """Count a build; enough of them are worth a pass."""
        self._ended += 1
        if self._ended >= self._rhythm.builds:
            self.ask()

    async def run(self) -> None:
        """Make passes until cancelled."""
        rhythm = self._rhythm
        await self._wait(rhythm.first)
        while True:
            self._ended = 0
            await self.make_pass()
            await asyncio.sleep(rhythm.apart)
            low = self.watch.missing()
            await self._wait(rhythm.while_low if low else rhythm.every)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()
        self._asked.clear()

    async def make_pass(self) -> None:
        """Do everything once; what fails is told and tried again in the next pass."""
        self._troubles = {}
        before = (self._logs.removed, self._rows.removed)
        for name, step in self._steps():
            try:
                await step()
            except Exception as error:
                # Whatever it was, the other steps are as necessary.
                log.exception("upkeep: %s", name)
                self._troubles[name] = f"{type(error).__name__}: {error}"
                if step == self._choose:
                    break  # without knowing what stays nothing may go
        self._passed_at = self._clock()
        logs, builds = self._logs.removed - before[0], self._rows.removed - before[1]
        if logs or builds:
            log.info("upkeep: %d logs and %d builds removed", logs, builds)

    def _steps(self) -> Sequence[tuple[str, Step]]:
        return (
            ("choosing what stays", self._choose),
            ("making room", self._make_room),
            ("removing what was set aside", self._sweep),
            ("measuring logs", self._logs.measure),
            ("removing old logs", self._trim),
            ("removing old builds", self._remove_builds),
            ("removing old deliveries", self._remove_told),
            ("letting go of old results", self._remove_roots),
            ("removing repositories", self._remove_repositories),
            ("removing what was forgotten", self._remove_forgotten),
            ("tidying mirrors", self._tidy_mirrors),
            ("copying the history", self._copy),
        )

    async def _choose(self) -> None:
        self._spared = await self._database.read(retention.kept, self._branches)

    async def _sweep(self) -> None:
        await self._rows.files()
        await folders.sweep(self._settings.state_dir)

    async def _make_room(self) -> None:
        """While there is too little: first what can be made again, then the oldest logs."""
        await self.watch.room.look()
        state_dir = self._settings.state_dir
        if not self.watch.missing():
            return
        await folders.sweep(state_dir)
        for repository in await asyncio.to_thread(folders.caches, state_dir):
            # No build begins while the disk is low, so none can begin with this cache.
            busy = await self._database.read(retention.at_work)
            if self.watch.room.low(STATE) and repository not in busy:
                await asyncio.to_thread(folders.remove_cache, state_dir, repository)
                await folders.sweep(state_dir)
                await self.watch.room.look()
        if self.watch.missing_to_record():
            await asyncio.to_thread(backup.remove_older, self._last_copy)
            await self.watch.room.look()
        await self._logs.make_room(self._spared)
        await self.watch.look()

    async def _trim(self) -> None:
        await self._logs.trim(self._spared, await self._now())

    async def _remove_builds(self) -> None:
        await self._rows.builds(self._spared)

    async def _remove_told(self) -> None:
        await self._rows.told(await self._before(self._limits.deliveries_for))

    async def _remove_roots(self) -> None:
        rules = folders.RootRules(
            await self._database.read(retention.green_targets, self._branches),
            await self._database.read(pins.numbers) | self._spared,
            await self._before(self._limits.logs_for),
        )
        state_dir = self._settings.state_dir
        count = await asyncio.to_thread(folders.remove_old_roots, state_dir, rules)
        if count:
            log.info("upkeep: %d results of former branches or targets let go", count)

    async def _remove_repositories(self) -> None:
        numbers = await self._database.write(
            repositories.ensure, [r.name for r in self._settings.repositories]
        )
        ids = [numbers[repository.name] for repository in self._settings.repositories]
        at = await self._now()
        await self._database.write(retention.note_configured, ids, at)
        gone = await self._database.read(
            retention.unconfigured, await self._before(GRACE)
        )
        state_dir = self._settings.state_dir
        await asyncio.to_thread(folders.remove_repositories, state_dir, gone)
        await asyncio.to_thread(folders.remove_old_copies, state_dir)
        await folders.sweep(state_dir)

    async def _remove_forgotten(self) -> None:
        """Once a day, because many files are looked at: caches, and logs without a row.

        Nix never forgets what it fetched; a build under way is spared.
        """
        state_dir = self._settings.state_dir
        if time.monotonic() < self._weigh_at:
            return
        self._weigh_at = time.monotonic() + backup.EVERY
        await self._rows.strays(await self._before(self._limits.logs_for))
        for repository in await asyncio.to_thread(
            folders.large_caches, state_dir, self._most_cache
        ):
            if repository not in await self._database.read(retention.at_work):
                await asyncio.to_thread(folders.remove_cache, state_dir, repository)
        await folders.sweep(state_dir)

    async def _tidy_mirrors(self) -> None:
        if self.watch.room.reason():
            return
        for repository in self._settings.repositories:
            mirror = self._mirrors(repository.name)
            if await asyncio.to_thread(mirror.path.exists):
                await mirror.tidy()

    async def _copy(self) -> None:
        """Once a day, when there is room for it."""
        now = self._clock() / 1000
        if not await asyncio.to_thread(backup.due, self._last_copy, now):
            return
        found = self.watch.room.seen(STATE)
        size = await asyncio.to_thread(backup.size, self._database.path)
        if found is None or found.free < self._settings.disk.state_low + 2 * size:
            return
        await backup.copy(self._database.path, self._last_copy)

    @property
    def _last_copy(self) -> Path:
        return paths.backup_path(self._settings.state_dir)

    @property
    def _limits(self) -> Retention:
        return self._settings.retention

    async def _now(self) -> int:
        """Milliseconds, UTC; see BELIEVED."""
        seen, now = await self._database.read(retention.last_seen), self._clock()
        return now if seen is None else min(now, seen + int(BELIEVED * 1000))

    async def _before(self, seconds: float) -> int:
        return await self._now() - int(seconds * 1000)

    def checks(self) -> list[Check]:
        """The checks "disk" and "upkeep"; cheap, from memory."""
        return [*self.watch.checks(), self._check()]

    def _check(self) -> Check:
        if self._troubles:
            what = "; ".join(f"{name}: {why}" for name, why in self._troubles.items())
            return Check("upkeep", False, what, "see the service's own log")
        last = rfc3339(self._passed_at)
        return Check("upkeep", True, f"last pass {last}" if last else "no pass yet")

    def measured_by(self, metrics: Metrics) -> None:
        """Let Prometheus see the room, the ballast and the logs."""
        room, ballast = self.watch.room, self.watch.ballast
        metrics.watch(
            "state_free_bytes", "Room for state_dir.", lambda: room.free(STATE)
        )
        if any(place.key == STORE for place in room.places):
            metrics.watch(
                "store_free_bytes", "Room for the Nix store.", lambda: room.free(STORE)
            )
        metrics.watch(
            "ballast_bytes",
            "Room held back for a full disk.",
            lambda: float(ballast.size if ballast.present else 0),
        )
        metrics.watch(
            "log_bytes",
            "What all logs of ended builds take.",
            lambda: float(self._logs.total),
        )
