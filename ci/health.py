"""What `/health` says: cheap looks at what a running server depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci.adapters import harmonia
from ci.models import Check
from ci.report.outbox import Outbox
from ci.supervise import Supervisor

CACHE_TIMEOUT = 2.0
# Who looks at a page does not wait longer for a cache whose last answer is known.
PATIENCE = 0.3

# What a part of the server says about itself: at once, from what it knows already.
Look = Callable[[], Sequence[Check]]


@dataclass
class CacheLook:
    """Whether the binary cache at `url` answers; of a slow one, what was seen last."""

    url: str
    # Seconds that it has for its answer.
    timeout: float = CACHE_TIMEOUT
    _asking: asyncio.Task[Check] | None = None
    _last: Check | None = None

    async def __call__(self) -> Check:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="look at the cache")
        asking = self._asking
        await asyncio.wait([asking], timeout=None if self._last is None else PATIENCE)
        if self._last is None or asking.done():
            self._last = asking.result()
        return self._last

    async def _ask(self) -> Check:
        works = await harmonia.cache_running(self.url, timeout=self.timeout)
        detail = "answers" if works else "does not answer"
        return Check("cache", works, f"{self.url} {detail}", "is Harmonia running?")


@dataclass(frozen=True)
class Health:
    """Call it for the checks of this moment; each look is bounded in time."""

    outbox: Outbox
    supervisor: Supervisor
    looks: Sequence[Look] = ()
    cache: CacheLook | None = None

    async def __call__(self) -> list[Check]:
        found = [self.supervisor.check(), *self.outbox.checks()]
        for look in self.looks:
            found += look()
        if self.cache is not None:
            found.append(await self.cache())
        return found
