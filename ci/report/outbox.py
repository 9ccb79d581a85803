"""The sender of commit statuses: one at a time, in order, until GitHub has agreed.

What is sent is computed from the rows at that moment. GitHub's wishes come first: a
second between two posts, a budget per hour, silence when it asks for it
(https://docs.github.com/en/rest/using-the-rest-api/best-practices-for-using-the-rest-api).
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ci.adapters.host import now_ms
from ci.adapters.metrics import Metrics
from ci.errors import (
    CredentialRejected,
    GitHubBusy,
    GitHubRefused,
    GitHubUnavailable,
    HistoryError,
)
from ci.history import builds, outbox, repositories
from ci.history.database import Database
from ci.history.outbox import Item
from ci.models import Build, BuildState, Check, StatusState, human_seconds
from ci.report.describe import describe, describe_past, describe_target, matches
from ci.wake import Wake

log = logging.getLogger(__name__)

HOUR_MS = 3_600_000
IDLE = 300.0
BUDGET_SPENT = 60.0

# A host that slept for a week has not tried for a week.
TRIES_BEFORE_GIVING_UP = 20
# Between the first and the last of them lie two and a half minutes.
UNKNOWN_COMMIT_TRIES = 6
# This many failures in a row are an outage, not the bad luck of one item.
OUTAGE = 3
DEAD_SHOWN_MS = 3 * 86_400_000
REASONS_SHOWN = 2


@dataclass(frozen=True)
class Pace:
    """How fast and how long GitHub is asked; seconds, and posts per hour.

    GitHub wants a second between changes and at most 500 of them per hour. The last
    `reserve` of the budget is for verdicts and for the heads of branches. An item dies
    after `unavailable_for` without an answer, or `refused_for` of refusals.
    """

    gap: float = 1.0
    hourly: int = 400
    reserve: int = 100
    first_retry: float = 5.0
    longest_retry: float = 3600.0
    longest_outage_pause: float = 60.0
    unavailable_for: float = 7 * 86400.0
    refused_for: float = 6 * 3600.0


class Poster(Protocol):
    """What the outbox needs of GitHub (ci/adapters/github)."""

    def trouble(self) -> str: ...

    def forgive(self) -> None: ...

    async def post_status(
        self,
        repo: str,
        sha: str,
        *,
        state: StatusState,
        context: str,
        description: str,
        target_url: str,
    ) -> None: ...


@dataclass(frozen=True)
class Letter:
    """An item as it goes out; `repo` is what GitHub calls the repository now."""

    item: Item
    repo: str
    description: str
    target_url: str


@dataclass
class Refusal:
    """Since when (monotonic) and how often GitHub has said no to an item."""

    since: float
    count: int = 0


class Outbox:
    """Run one per history: order rests on there being a single sender."""

    def __init__(
        self,
        database: Database,
        github: Poster,
        *,
        public_url: str,
        wake: Wake,
        pace: Pace | None = None,
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._github = github
        self._public_url = public_url
        self._wake = wake
        self._pace = pace or Pace()
        self._clock = clock
        self._monotonic = monotonic
        self._dice = random.SystemRandom()
        self._quiet_until = 0.0
        self._reason = ""
        self._failures = 0
        self._hurried = False
        self._refusals: dict[int, Refusal] = {}
        self._refused_repos: dict[str, str] = {}
        self._dead: Sequence[Item] = ()

    def checks(self) -> list[Check]:
        """For health: whether GitHub takes what it is told, and what it refused for good.

        A refusal that nothing has made good is a fault for three days, then a remark.
        """
        fix = "they are kept and posted later; `build-server doctor` asks GitHub why"
        if self.trouble:
            return [Check("statuses", False, self.trouble + self._regrets(), fix)]
        fresh = [i for i in self._dead if self._clock() - i.queued_at < DEAD_SHOWN_MS]
        detail = "GitHub takes commit statuses" + self._regrets()
        fix = "GitHub will not have them: its answer says why; a retry posts anew"
        return [Check("statuses", not fresh, detail, fix if fresh else "")]

    def measured_by(self, metrics: Metrics) -> None:
        """Count dead letters at each scrape."""
        metrics.watch(
            "outbox_dead",
            "Commit statuses that GitHub refused for good, and nothing has made good.",
            lambda: len(self._dead),
        )

    def _regrets(self) -> str:
        """`; 2 were refused for good: <why>; <why>`, the newest first; empty for none."""
        if not self._dead:
            return ""
        newest = dict.fromkeys(item.error for item in self._dead)
        reasons = "; ".join(list(newest)[:REASONS_SHOWN])
        many = f"{len(self._dead)}{'+' * (len(self._dead) == outbox.MOST_DEAD)}"
        return f"; {many} refused for good: {reasons}"

    async def _count_dead(self) -> None:
        self._dead = await self._database.read(outbox.dead_letters)

    @property
    def trouble(self) -> str:
        """What keeps statuses from GitHub, for people; empty when nothing does."""
        reasons = [self._github.trouble(), self._reason, *self._refused_repos.values()]
        return next(filter(None, reasons), "")

    def credential_changed(self) -> None:
        """Try again what waits: somebody has put right what was wrong."""
        self._github.forgive()
        self._refusals.clear()
        self.hurry()

    def hurry(self) -> None:
        """Try at once what waits for a network that may be there again."""
        self._hurried = True
        self._wake()

    async def run(self) -> None:
        """Send until cancelled."""
        await self._count_dead()
        while True:
            seen = self._wake.count
            wait = await self.step()
            if wait > 0:
                await self._wake.wait(seen, wait)

    async def step(self) -> float:
        """Send one item if one may be sent now; return for how long nothing may be."""
        quiet = self._quiet_until - self._monotonic()
        if quiet > 0:
            return quiet
        if self._github.trouble():
            return IDLE
        now = self._clock()
        if self._hurried:
            self._hurried = False
            await self._database.write(outbox.hurry, now)
        used = await self._database.read(outbox.sent_since, now - HOUR_MS, now)
        if used >= self._pace.hourly:
            return BUDGET_SPENT
        urgent = used >= self._pace.hourly - self._pace.reserve
        if await self._database.read(outbox.due, now, urgent=urgent) is None:
            return await self._until_due(now)
        letter = await self._database.write(self._begin, now, urgent)
        if letter is not None:
            await self._post(letter)
            self._be_quiet(self._pace.gap)
        return 0.0

    async def _until_due(self, now: int) -> float:
        due = await self._database.read(outbox.next_due_at)
        if due is None:
            self._reason = ""
            return IDLE
        wait = (due - now) / 1000
        return min(wait, IDLE) if wait > 0 else BUDGET_SPENT

    def _begin(
        self, connection: sqlite3.Connection, now: int, urgent: bool
    ) -> Letter | None:
        """Count the try and write the letter, in one transaction."""
        item = outbox.begin(connection, now, urgent=urgent)
        if item is None:
            return None
        build = builds.get(connection, item.build)
        if build is None:
            raise HistoryError(f"the outbox names build #{item.build}, which is gone")
        return Letter(
            item=item,
            repo=repositories.github_name(connection, build.repo),
            description=_description(connection, item, build, now),
            target_url=f"{self._public_url}/builds/{build.number}",
        )

    async def _post(self, letter: Letter) -> None:
        item = letter.item
        try:
            await self._github.post_status(
                letter.repo,
                item.sha,
                state=item.state,
                context=item.context,
                description=letter.description,
                target_url=letter.target_url,
            )
        except GitHubUnavailable as error:
            await self._unavailable(item, error)
        except GitHubBusy as error:
            self._explain(str(error))
            self._be_quiet(error.until - time.time())
            await self._database.write(
                outbox.failed, item.id, str(error), self._clock()
            )
        except CredentialRejected as error:
            log.error("statuses wait for another credential: %s", error)
            await self._database.write(
                outbox.failed, item.id, str(error), self._clock()
            )
        except GitHubRefused as error:
            await self._refused(letter, error)
        else:
            await self._delivered(letter)

    async def _delivered(self, letter: Letter) -> None:
        self._hurried = self._hurried or self._failures >= OUTAGE
        self._failures = 0
        self._reason = ""
        self._refusals.pop(letter.item.id, None)
        self._refused_repos.pop(letter.repo, None)
        await self._database.write(outbox.sent, letter.item.id, self._clock())
        if self._dead:
            await self._count_dead()

    async def _unavailable(self, item: Item, error: GitHubUnavailable) -> None:
        self._explain(str(error))
        self._failures += 1
        self._be_quiet(min(self._wait(self._failures), self._pace.longest_outage_pause))
        age = (self._clock() - item.queued_at) / 1000
        if age > self._pace.unavailable_for and item.tries >= TRIES_BEFORE_GIVING_UP:
            await self._bury(item, f"given up after {human_seconds(age)}: {error}")
        else:
            await self._retry(item, str(error))

    async def _refused(self, letter: Letter, error: GitHubRefused) -> None:
        item, now = letter.item, self._monotonic()
        if error.status in (403, 404):
            self._refused_repos[letter.repo] = str(error)
        refusal = self._refusals.setdefault(item.id, Refusal(since=now))
        refusal.count += 1
        unknown = error.status == 422 and refusal.count >= UNKNOWN_COMMIT_TRIES
        if error.permanent or unknown or now - refusal.since >= self._pace.refused_for:
            await self._bury(item, str(error))
        else:
            await self._retry(item, str(error))

    async def _retry(self, item: Item, error: str) -> None:
        next_try_at = self._clock() + round(self._wait(item.tries) * 1000)
        await self._database.write(outbox.failed, item.id, error, next_try_at)

    async def _bury(self, item: Item, error: str) -> None:
        log.error("GitHub will not have %s of %s: %s", item.state, item.sha, error)
        self._refusals.pop(item.id, None)
        await self._database.write(outbox.dead, item.id, error)
        await self._count_dead()

    def _wait(self, tries: int) -> float:
        """Seconds before the next try: doubled each time, a quarter more or less."""
        wait = self._pace.first_retry * 2.0 ** min(tries - 1, 30)
        return min(wait * self._dice.uniform(0.75, 1.25), self._pace.longest_retry)

    def _be_quiet(self, seconds: float) -> None:
        self._quiet_until = max(self._quiet_until, self._monotonic() + seconds)

    def _explain(self, reason: str) -> None:
        if not self._reason:
            log.warning("statuses wait: %s", reason)
        self._reason = reason


def _description(
    connection: sqlite3.Connection, item: Item, build: Build, now: int
) -> str:
    if item.target is not None:
        return describe_target(build, item.target, item.state)
    if not matches(build, item.state):
        return describe_past(build, item.state)
    broken = build.state is BuildState.FAILED
    since = builds.broken_since(connection, build.number) if broken else None
    return describe(build, broken_since=since, now_ms=now)
