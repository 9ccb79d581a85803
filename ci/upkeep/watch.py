"""The disk is looked at now and then, more often when it gets full, and acted upon.

    enough   builds begin, and the ballast is there
    low      below the mark: no build begins, running ones go on, pushes are recorded
    brink    next to nothing, or a write has failed: the ballast is given up, so that the
             history can record, and delete

What removes something is told at each step down; it makes room until there is enough.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ci.adapters.host import disk
from ci.config import Settings
from ci.history import paths
from ci.models import Check
from ci.upkeep.ballast import Ballast
from ci.upkeep.room import INODES_LOW, MARGIN, Place, Room, size

log = logging.getLogger(__name__)

STATE = "disk.state_low"
STORE = "disk.store_low"
# Seconds between two looks: usually, and near the mark or below.
POLL = 30.0
POLL_NEAR = 2.0
# Seconds after the start until the ballast is made: a start has better things to do.
BALLAST_AFTER = 5.0
LEAST_BRINK = 1024**2


@dataclass
class DiskWatch:
    """Make one, `await run()` it, and ask `room` whether a build may begin.

    `on_more` is called when there is enough room again, `on_less` each time there is
    less than there should be.
    """

    room: Room
    ballast: Ballast
    on_more: Callable[[], None]
    on_less: Callable[[], None]
    _failed: bool = False
    _was_low: bool = False
    _was_short: bool = False
    _refused: str = ""
    _stir: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def brink(self) -> int:
        """Free bytes with which the room is about to end."""
        return max(LEAST_BRINK, self.ballast.size // 8)

    async def run(self) -> None:
        """Look until cancelled."""
        await asyncio.to_thread(self.ballast.find)
        await self.look()
        await self._wait(BALLAST_AFTER)
        while True:
            await self.look()
            await self._hold_back()
            near = self.room.reason() or self.room.near()
            await self._wait(POLL_NEAR if near else POLL)

    async def _wait(self, seconds: float) -> None:
        self._stir.clear()
        if self._failed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stir.wait()

    def full(self) -> None:
        """A write has failed for want of room: look now, whatever the last look said."""
        self._failed = True
        self._stir.set()

    async def look(self) -> None:
        """See how much room there is, tell when that changed, let the ballast go if need be."""
        await self.room.look()
        if self._failed or self._on_the_brink():
            await self._let_go()
        # Others look, too: the room itself has forgotten what we have told.
        was_low, why = self._was_low, self.room.reason()
        self._was_low = bool(why)
        if why and not was_low:
            log.warning("disk: %s", why)
            self.on_less()
        if was_low and not why:
            log.warning("disk: enough room again; builds begin")
            self.on_more()

    def _on_the_brink(self) -> bool:
        found = self.room.seen(STATE)
        return found is not None and found.free < self.brink and self.ballast.present

    async def _let_go(self) -> None:
        self._failed = False
        if self.ballast.present:
            held = await asyncio.to_thread(self.ballast.release)
            log.error("disk: no room left; the ballast (%s) is given up", size(held))
            await self.room.look()
        self.on_less()

    async def _hold_back(self) -> None:
        """Make the ballast when that leaves enough for builds."""
        short, self._was_short = self._was_short, self.missing() > 0
        if self._was_short and not short:
            self.on_less()
        if self.ballast.present or self._was_short:
            return
        try:
            await asyncio.to_thread(self.ballast.make)
        except OSError as error:
            self._say_once(f"no ballast in {self.ballast.path}: {error.strerror}")
        else:
            self._refused = ""

    def _say_once(self, refused: str) -> None:
        if refused != self._refused:
            log.error("disk: %s", refused)
        self._refused = refused

    @property
    def _enough(self) -> int:
        return next(place.enough for place in self.room.places if place.key == STATE)

    def missing(self) -> int:
        """Bytes that `state_dir` lacks until builds begin and the ballast is there.

        At least 1 while it is low for another reason.
        """
        found = self.room.seen(STATE)
        if found is None:
            return 0
        wanted = self._enough + (0 if self.ballast.present else self.ballast.size)
        low = self.room.low(STATE)
        if self.ballast.present and not low:
            return 0
        return max(int(low), wanted - found.free)

    def missing_inodes(self) -> int:
        """Inodes that `state_dir` lacks until builds begin."""
        found = self.room.seen(STATE)
        if found is None or found.inodes_free is None or not self.room.low(STATE):
            return 0
        return max(0, INODES_LOW + INODES_LOW // MARGIN - found.inodes_free)

    def missing_to_record(self) -> int:
        """Bytes that the history lacks to go on: there should be as many as the ballast."""
        found = self.room.seen(STATE)
        if found is None or self.ballast.present or not self.room.low(STATE):
            return 0
        return max(0, self.ballast.size - found.free)

    def checks(self) -> list[Check]:
        """The check "disk"."""
        check = self.room.check()
        if self._refused and check.ok:
            advice = "look at that file system; a quota, or a disk error, perhaps"
            return [
                Check(check.name, False, f"{check.detail}; {self._refused}", advice)
            ]
        return [check]


def places(settings: Settings, store: Path | None = None) -> list[Place]:
    """What builds write to; `store` is where the Nix store is, None when nobody uses it."""
    found = [
        Place(
            settings.state_dir,
            settings.disk.state_low,
            STATE,
            "make room: lower retention.logs_size, or remove what is not build-server's",
        )
    ]
    if store is not None:
        found.append(
            Place(
                store,
                settings.disk.store_low,
                STORE,
                "make room: `nix-collect-garbage`; a lower build.keep frees older results",
            )
        )
    return found


def give_up_ballast_when_full(settings: Settings) -> None:
    """Before anything is opened: a full disk must not keep a server from starting."""
    path = paths.ballast_path(settings.state_dir)
    if path.exists() and disk(path).free < LEAST_BRINK:
        log.error("disk: no room left in %s; the ballast is given up", path.parent)
        path.unlink(missing_ok=True)
