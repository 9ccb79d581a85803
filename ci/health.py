"""What `/health` says: cheap looks at what a running server depends on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci.adapters import harmonia
from ci.config import Settings
from ci.models import Check
from ci.report.outbox import Outbox
from ci.supervise import Supervisor

CACHE_TIMEOUT = 2.0

# What a part of the server says about itself: at once, from what it knows already.
Look = Callable[[], Sequence[Check]]


@dataclass(frozen=True)
class Health:
    """Call it for the checks of this moment; each look is bounded in time."""

    settings: Settings
    outbox: Outbox
    supervisor: Supervisor
    looks: Sequence[Look] = ()

    async def __call__(self) -> list[Check]:
        found = [self.supervisor.check(), *self.outbox.checks()]
        for look in self.looks:
            found += look()
        if self.settings.cache is not None:
            found.append(await self._cache(self.settings.cache.url))
        return found

    async def _cache(self, url: str) -> Check:
        works = await harmonia.cache_running(url, timeout=CACHE_TIMEOUT)
        detail = "answers" if works else "does not answer"
        return Check("cache", works, f"{url} {detail}", "is Harmonia running?")
