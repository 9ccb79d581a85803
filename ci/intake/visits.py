"""One repository, looked at again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from ci.errors import BuildServerError
from ci.intake.look import FRESH, Look
from ci.intake.redelivery import PACE, Redelivery

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pace:
    """How long things may take, in seconds; tests may be in more of a hurry.

    `tick`: between two looks at the clocks. `retry`: after a look that failed, doubled
    each time. `grace`: for GitHub to tell of a push that was found by looking. `slow`:
    for a look, before people are told. `fresh`, `redelivery`: see there.
    """

    tick: float = 15.0
    retry: float = 15.0
    grace: float = 120.0
    slow: float = 120.0
    fresh: float = FRESH / 1000
    redelivery: float = PACE


@dataclass
class Visits:
    """Looks at the repository `name` every `every` seconds, and whenever it is stirred.

    `steady`: the last look was good, and this server was up and awake ever since.
    Clocks are monotonic: of the last good look, and of the start of one that goes on.
    `trouble` says why the last look was not good.
    """

    name: str
    look: Look
    redelivery: Redelivery | None
    every: float
    pace: Pace
    steady: bool = False
    good_at: float | None = None
    began_at: float | None = None
    trouble: str = ""
    _failures: int = 0

    def stir(self) -> None:
        """Look at once, and soon again: what happened meanwhile is not known."""
        self.steady = False
        # A network that was away before the host slept says nothing of the one it woke in.
        self._failures = 0
        self.look.stirred.set()

    async def run(
        self, notice: Callable[[], None], done: Callable[[bool], None]
    ) -> None:
        """Look until cancelled; `notice` is called before each look, `done` after it.

        `done` is told whether the remote answered again, after it had not.
        """
        while True:
            notice()
            self.look.stirred.clear()
            self.began_at = time.monotonic()
            in_vain = bool(self.trouble)
            pause = await self._turn(notice)
            self.began_at = None
            done(in_vain and not self.trouble)
            try:
                async with asyncio.timeout(pause):
                    await self.look.stirred.wait()
            except TimeoutError:
                continue

    async def _turn(self, notice: Callable[[], None]) -> float:
        """Look once; returns the seconds until the next look is due."""
        awake, self.steady = self.steady and self.redelivery is not None, False

        def alarm() -> bool:
            notice()
            return awake and not self.look.stirred.is_set()

        try:
            settled = await self.look(alarm=alarm)
        except Exception as error:
            # Whatever it was, it is said, and other repositories are looked at.
            if not isinstance(error, BuildServerError):
                log.exception("looking at %s", self.name)
            log.warning("%s may have more commits: %s", self.name, error)
            self.trouble = str(error) or type(error).__name__
            pause = self.pace.retry * float(2 ** min(self._failures, 20))
            self._failures += 1
            return min(self.every, pause)
        self.trouble, self._failures = "", 0
        if not settled:
            return min(self.every, self.pace.fresh)
        self.good_at = time.monotonic()
        self.steady = not self.look.stirred.is_set()
        if self.redelivery is not None:
            self.redelivery.stir()
        return self.every
