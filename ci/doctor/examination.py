"""The doctor in a running server: looks when somebody asks, and not too often."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from ci.models import Check

# Seconds: how long a finding is good for, and how long anybody waits for a new one.
FRESH = 30.0
PATIENCE = 2.0

log = logging.getLogger(__name__)


class Examination:
    """Call it for what `look` finds; `changed` is called when that is something new.

    Whoever asks waits `patience` seconds at most, then gets what was found before; None:
    nothing was found yet, the first look goes on. One look runs at a time, to its end.
    """

    def __init__(
        self,
        look: Callable[[], Awaitable[list[Check]]],
        changed: Callable[[], None],
        *,
        fresh: float = FRESH,
        patience: float = PATIENCE,
    ) -> None:
        self._look = look
        self._changed = changed
        self._fresh = fresh
        self._patience = patience
        self._found: list[Check] | None = None
        self._until = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self) -> list[Check] | None:
        """What the doctor finds, in its order."""
        if asyncio.get_running_loop().time() >= self._until:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._run(), name="doctor")
            await asyncio.wait({self._looking}, timeout=self._patience)
        return self._found

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _run(self) -> None:
        try:
            found = await self._look()
        except Exception as error:
            log.exception("the doctor failed")
            problem = f"the doctor itself failed ({type(error).__name__})"
            found = [Check("doctor", False, problem, "look into the server's log")]
        before, self._found = self._found, found
        self._until = asyncio.get_running_loop().time() + self._fresh
        if before is None or _findings(before) != _findings(found):
            self._changed()


def _findings(checks: Sequence[Check]) -> list[tuple[str, bool, str]]:
    """What matters of them: free bytes and the time of day are always new."""
    return [(check.name, check.ok, check.fix) for check in checks]
