"""Loops that must not end: restarted with backoff when they do, and never silently."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from ci.models import Check

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
# A loop that ran this long has recovered: the next failure starts over.
STEADY = 300.0


@dataclass
class Supervisor:
    """Runs named loops and knows which of them are in trouble."""

    troubles: dict[str, str] = field(default_factory=dict)

    async def keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run `loop` until cancelled, starting it again whenever it ends or raises."""
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE
        while True:
            begun = clock()
            try:
                await loop()
                trouble = "it ended by itself"
            except Exception as error:
                # Whatever it was, the other loops go on and people are told.
                log.exception("%s stopped", name)
                trouble = _sentence(error)
            self.troubles[name] = trouble
            if clock() - begun > STEADY:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            self.troubles.pop(name, None)

    def check(self) -> Check:
        """Green while no loop is waiting to be started again."""
        if not self.troubles:
            return Check("loops", True, "all loops run")
        detail = "; ".join(f"{name}: {why}" for name, why in self.troubles.items())
        return Check("loops", False, detail, "see the service's own log")


def _sentence(error: Exception) -> str:
    """The error itself, where it comes wrapped in those of task groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
