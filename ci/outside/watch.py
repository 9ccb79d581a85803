"""The loop that asks at the public address about every minute, and what it knows."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from ci.adapters.metrics import Metrics
from ci.config import Settings
from ci.models import Check
from ci.outside import clock
from ci.outside.asking import ANSWER_SECONDS, ask_outside
from ci.outside.finding import NAME, Finding, Reach

log = logging.getLogger(__name__)

# With the longest question (12 s) a break is known within a minute of its beginning.
EVERY = 45.0
# What is broken is looked at more often, so that its repair is seen soon.
AGAIN = 15.0
SHORTEST_PATIENCE = 2.0


class OutsideWatch:
    """Supervise `run`; `checks` tells at any time what it saw last.

    `secrets` gives the webhook's secrets as they are now, `clock_skew` by how many
    seconds GitHub's clock is ahead, None as long as it has not told.
    """

    def __init__(
        self,
        settings: Settings,
        secrets: Callable[[], Sequence[bytes]],
        clock_skew: Callable[[], float | None],
    ) -> None:
        self._settings = settings
        self._secrets = secrets
        self._clock_skew = clock_skew
        self._every = min(EVERY, settings.github.reconcile_every)
        self._hurry = asyncio.Event()
        self._last: Finding | None = None

    @property
    def wanted(self) -> bool:
        """Whether there is a public address to ask at, and a listener behind it."""
        github = self._settings.github
        return github.webhook and github.public_webhook_url != ""

    def hurry(self) -> None:
        """Ask at once: this host woke, or its network came back."""
        self._hurry.set()

    def checks(self) -> list[Check]:
        """What was seen last, and the clock of this moment, for `/health`."""
        found = [clock.compared(self._clock_skew(), "GitHub")]
        if self.wanted:
            found.append(self._funnel())
        return found

    def _funnel(self) -> Check:
        if self._last is None:
            return Check(NAME, True, "the public address was not asked yet")
        return self._last.check()

    def measured_by(self, metrics: Metrics) -> None:
        """Have both looks scraped; NaN stands for what is not known."""
        metrics.watch(
            "clock_skew_seconds",
            "Seconds by which GitHub's clock is ahead of this host's.",
            lambda: _number(self._clock_skew()),
        )
        if self.wanted:
            metrics.watch(
                "funnel_reachable",
                "1 when the public webhook address leads to this server, else 0.",
                lambda: _number(self._reachable()),
            )

    def _reachable(self) -> float | None:
        if self._last is None or self._last.reach is Reach.UNKNOWN:
            return None
        return float(self._last.reach is Reach.REACHABLE)

    async def run(self) -> None:
        """Ask until cancelled; start it when the public listener listens."""
        if not self.wanted:
            await asyncio.Event().wait()
        now = asyncio.get_running_loop().time
        patience = max(SHORTEST_PATIENCE, min(ANSWER_SECONDS, self._every))
        while True:
            self._hurry.clear()
            began = now()
            found = await ask_outside(
                self._settings, self._secrets(), patience=patience
            )
            self._note(found)
            good = found.reach is Reach.REACHABLE
            await self._pause(
                began + (self._every if good else min(AGAIN, self._every))
            )

    async def _pause(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def _note(self, found: Finding) -> None:
        """Keep it, and say it once: when the result is another one than before."""
        before, self._last = self._last, found
        if before is not None and before.reach is found.reach:
            return
        level = logging.INFO if found.reach is Reach.REACHABLE else logging.WARNING
        log.log(level, "the public address is %s: %s", found.reach, found.detail)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
