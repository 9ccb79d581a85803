"""GitHub's clock, as far as its replies tell it (the header Date, RFC 9110 §6.6.1).

And how long ago GitHub told something that does not hold for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

_boot_clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def _clocks() -> tuple[float, float]:
    return time.time(), _boot_clock()


class Stopwatch:
    """How many seconds ago it was made, those that the host slept included.

    The boot clock counts them, unless the host is a virtual machine: there the wall
    clock is set forward. One that was set forward in error makes this too long, never
    too short.
    """

    def __init__(self, clocks: Callable[[], tuple[float, float]] = _clocks) -> None:
        self._clocks = clocks
        self._begun = clocks()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        pairs = zip(self._clocks(), self._begun, strict=True)
        return max(now - begun for now, begun in pairs)


class RemoteClock:
    """How far GitHub's clock is ahead of ours; steps of ours are seen at once.

    GitHub's time is kept as a distance from the boot clock, which nobody sets. So a
    host that wakes with a wrong time, and one whose time was put right, need not ask
    again to know. (A virtual machine whose host slept has no clock that ran on; there
    the next reply tells.)
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        boot: Callable[[], float] = _boot_clock,
    ) -> None:
        self._wall = wall
        self._boot = boot
        self._ahead_of_boot: float | None = None

    def note(self, moment: float | None, asked: float) -> None:
        """A reply told the time `moment` (seconds since the epoch; None: it did not).

        `asked` is our own time when the request began: whatever lies between asking and
        reading is no error, even if this host slept meanwhile.
        """
        now = self._wall()
        if moment is None:
            self._ahead_of_boot = None
            return
        ours = min(max(moment, min(asked, now)), now)
        self._ahead_of_boot = now + (moment - ours) - self._boot()

    @property
    def skew(self) -> float | None:
        """Seconds by which GitHub is ahead; None as long as no reply has told."""
        if self._ahead_of_boot is None:
            return None
        return self._ahead_of_boot + self._boot() - self._wall()
