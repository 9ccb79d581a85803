"""When an attempt that ended without a verdict is followed by another one, and when not.

a fault of ours        three attempts
a remote that is out of reach, or takes our credential no more
                       free, for as long as it takes: nothing of it can be built anyway
anything else that others must put right (the server of an input, the Nix daemon)
                       free, but not for ever: a hundred times and a day
our own stop           free, at once
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ci.adapters.git import Mirror
from ci.build.verdict import Ended
from ci.history import waiting
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import Check

ATTEMPTS = 3
WAITS = 100
WAITS_FOR_MS = 24 * 3600 * 1000
# Seconds from the end of an attempt to the next, after the first fault, the second, ….
DELAYS = (5.0, 30.0, 120.0, 300.0, 900.0)
# Seconds after which the last word on a remote is old.
FRESH = 2 * DELAYS[-1]


@dataclass(frozen=True)
class Outage:
    """A remote that did not give what it was asked for, `times` in a row.

    `at` is when it was last asked, by the monotonic clock: nobody asks for a repository of
    which nothing waits any more.
    """

    repo: str
    times: int
    reason: str
    at: float


@dataclass
class Retries:
    """What is known of faults that may pass; one for each server."""

    database: Database
    delays: Sequence[float] = DELAYS
    outages: dict[int, Outage] = field(default_factory=dict)

    async def after(self, claimed: Claimed, ended: Ended, at: int) -> float | None:
        """Seconds until the next attempt; None when there is to be none."""
        retry = ended.retry
        if retry is None:
            return None
        if retry.counted:
            left = ATTEMPTS - claimed.counted - 1
            return self._delay(claimed.counted) if left > 0 else None
        if retry.remote:
            return self._delay(self._note(claimed, ended.summary) - 1)
        if retry.waited:
            tries, since = await self.database.read(waiting.in_vain, claimed.number)
            enough = tries + 1 >= WAITS and at - since >= WAITS_FOR_MS
            return None if enough else self._delay(tries)
        return 0.0

    def _note(self, claimed: Claimed, reason: str) -> int:
        before = self.outages.get(claimed.repository)
        times = 1 + (before.times if before else 0)
        outage = Outage(claimed.repo, times, reason, time.monotonic())
        self.outages[claimed.repository] = outage
        return times

    def _delay(self, before: int) -> float:
        return self.delays[min(before, len(self.delays) - 1)]

    def is_down(self, repository: int) -> bool:
        """Whether the last that was heard of the repository's remote is bad."""
        return repository in self.outages

    def answered(self, repository: int) -> None:
        """The remote has given what it was asked for."""
        self.outages.pop(repository, None)

    def check(self) -> Check:
        """Red while a remote is out of reach."""
        since = time.monotonic() - FRESH
        outages = [outage for outage in self.outages.values() if outage.at > since]
        if not outages:
            return Check("remotes", True, "no build waits for its remote")
        found = "; ".join(f"{outage.repo}: {outage.reason}" for outage in outages)
        fix = (
            "builds wait and go on by themselves; see to this host's network, and to the "
            "credential where the remote refuses it"
        )
        return Check("remotes", False, found, fix)

    async def spare(
        self, mirror: Mirror, claimed: Claimed, until: int, reason: str
    ) -> None:
        """Let the repository's other builds wait as long, as far as they need its remote.

        One of them asks for all; each by itself would only wait for the same.
        """
        queued = await self.database.read(waiting.waiting, claimed.repository)
        absent = await mirror.lacks([sha for _, sha in queued])
        numbers = [number for number, sha in queued if sha in absent]
        await self.database.write(waiting.postpone, numbers, until=until, reason=reason)
