"""The turn of a day or an hour, which no test should meet by chance."""

from __future__ import annotations

import time

from tests.fakes.waiting import wait_until

DAY, HOUR = 86_400.0, 3_600.0
# More than a test takes of which this is asked.
MARGIN = 20.0


async def no_turn(period: float, since: float = 0.0) -> None:
    """Return when none comes in the next seconds: of a day of UTC, say.

    `period` in seconds; periods are counted from `since`, in seconds since the epoch.
    """

    def far() -> bool:
        return (time.time() - since) % period < period - MARGIN

    await wait_until(far, 2 * MARGIN, what="the turn")
