"""What `/health` says: cheap looks at what a running server depends on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ci.adapters import harmonia
from ci.adapters.host import disk
from ci.config import Settings
from ci.models import Check
from ci.report.outbox import Outbox
from ci.supervise import Supervisor
from ci.workshop import LEAST_FREE

CACHE_TIMEOUT = 2.0


@dataclass(frozen=True)
class Health:
    """Call it for the checks of this moment; each look is bounded in time."""

    settings: Settings
    outbox: Outbox
    supervisor: Supervisor

    async def __call__(self) -> list[Check]:
        looks: Sequence[Callable[[], Check]] = (
            self.supervisor.check,
            self._statuses,
        )
        found = [look() for look in looks]
        found.append(await asyncio.to_thread(self._disk))
        if self.settings.cache is not None:
            found.append(await self._cache(self.settings.cache.url))
        return found

    def _statuses(self) -> Check:
        trouble = self.outbox.trouble
        if not trouble:
            return Check("statuses", True, "GitHub takes commit statuses")
        return Check(
            "statuses",
            False,
            trouble,
            "they are kept and posted later; `build-server doctor` asks GitHub why",
        )

    def _disk(self) -> Check:
        free = disk(self.settings.state_dir).free
        return Check(
            "disk",
            free >= LEAST_FREE,
            f"{free // 1024**2} MiB free in {self.settings.state_dir}",
            "make room: old logs, `nix-collect-garbage`",
        )

    async def _cache(self, url: str) -> Check:
        works = await harmonia.cache_running(url, timeout=CACHE_TIMEOUT)
        detail = "answers" if works else "does not answer"
        return Check("cache", works, f"{url} {detail}", "is Harmonia running?")
