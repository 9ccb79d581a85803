"""The one bell that stirs every loop.

Departments meet in the database; the bell only says "look again". A ring that nobody
hears costs nothing but the poll interval: rows, not rings, carry the news.
"""

from __future__ import annotations

import asyncio

# In a storm of pushes every loop would look at the rows for each of them; so after one
# stroke the next comes this much later at the earliest, in seconds, for all rings between.
TICK = 0.02


class Wake:
    """Ring it after a commit; loops wait on it with a time-out as the safety net.

    `count` is the number of strokes. A ring in a quiet moment strikes at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self._struck = asyncio.Event()
        self._struck_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        due = self._struck_at + TICK
        if due <= loop.time():
            self._strike()
        else:
            self._timer = loop.call_at(due, self._strike)

    async def wait(self, seen: int, timeout: float) -> int:  # noqa: ASYNC109
        """Return the new count once it differs from `seen`, or after `timeout` seconds."""
        if self.count == seen:
            try:
                async with asyncio.timeout(timeout):
                    await self._struck.wait()
            except TimeoutError:
                pass
        return self.count

    def _strike(self) -> None:
        self._timer = None
        self._struck_at = asyncio.get_running_loop().time()
        self.count += 1
        self._struck.set()
        self._struck = asyncio.Event()
