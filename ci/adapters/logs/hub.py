"""Who is told that a log has grown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from weakref import WeakValueDictionary

# Followers are woken at most this often, and at least this often.
TICK_SECONDS = 0.05
LOOK_AGAIN_SECONDS = 5.0


class LogHub:
    """Rings when a log grows; for one event loop.

    It carries no bytes: followers read the file. A ring costs the writer the same with
    one follower as with a thousand, and next to nothing with none.
    """

    def __init__(
        self, tick: float = TICK_SECONDS, look_again: float = LOOK_AGAIN_SECONDS
    ) -> None:
        self._tick = tick
        self._look_again = look_again
        # A bell lasts as long as somebody waits, and one long interval more.
        self._bells: WeakValueDictionary[Path, _Bell] = WeakValueDictionary()

    def ring(self, path: Path) -> None:
        """There is more to read, or another reason to look."""
        bell = self._bells.get(path)
        if bell is not None:
            bell.ring()

    def finished(self, path: Path) -> None:
        """Nothing more will come: the last ring, at once."""
        bell = self._bells.get(path)
        if bell is not None:
            bell.strike()

    async def changed(self, path: Path) -> None:
        """Wait for the next ring, or for some seconds, whichever is shorter."""
        bell = self._bells.get(path)
        if bell is None:
            bell = self._bells[path] = _Bell(self._tick, self._look_again)
        await bell.wait()


class _Bell:
    """Makes one stroke per tick of any number of rings."""

    def __init__(self, tick: float, look_again: float) -> None:
        self._tick = tick
        self._look_again = look_again
        self._loop = asyncio.get_running_loop()
        self._stroke = asyncio.Event()
        self._waiting = 0
        self._struck_at = self._loop.time() - tick
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        if self._timer is None:
            self._strike_at(self._loop.time() + self._look_again)
        self._waiting += 1
        try:
            await self._stroke.wait()
        finally:
            self._waiting -= 1

    def ring(self) -> None:
        due = max(self._loop.time(), self._struck_at + self._tick)
        if self._timer is None or self._timer.when() > due:
            self._strike_at(due)

    def strike(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._struck_at = self._loop.time()
        if self._waiting:
            self._strike_at(self._struck_at + self._look_again)
        self._stroke.set()
        self._stroke = asyncio.Event()

    def _strike_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self.strike)
