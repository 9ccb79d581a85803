"""Tells people when a branch breaks or is fixed, and when the service is in trouble.

What there is to tell is written down first, in one transaction with what was told; then
it is sent until it has arrived at every address, for days and across restarts. Nobody is
told twice of the same, and of a hundred things at most twenty times an hour.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ci.adapters import apprise
from ci.adapters.apprise import Delivery, Message
from ci.adapters.host import now_ms
from ci.config import Settings
from ci.errors import HostFault
from ci.history import builds, notices
from ci.history.database import Database
from ci.history.notices import SERVICE, Notice, Subject
from ci.models import Check, human_seconds
from ci.report import wording
from ci.wake import Wake

log = logging.getLogger(__name__)

NAME = "notify"
HOUR_MS = 3_600_000
IDLE = 300.0
FIX = "`build-server notify --test` tries every address and says what it answers"


@dataclass(frozen=True)
class Pace:
    """Seconds between tries, messages per hour, and between two looks at the service."""

    hourly: int = 20
    first_retry: float = 5.0
    longest_retry: float = 3600.0
    longest_outage_pause: float = 60.0
    keep_for: float = 7 * 86400.0
    shortest_look: float = 1.0
    longest_look: float = 60.0


class Send(Protocol):
    """How a message goes out (ci/adapters/apprise)."""

    async def __call__(
        self, addresses: str, message: Message, *, reached: Sequence[str]
    ) -> Sequence[Delivery]: ...


class Notifier:
    """Supervise `run`; it does nothing while `addresses` gives None.

    `examine` says what `/health` says of this server.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        addresses: Callable[[], str | None],
        wake: Wake,
        *,
        send: Send = apprise.send,
        pace: Pace | None = None,
        clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._settings = settings
        self._addresses = addresses
        self._wake = wake
        self._send = send
        self._pace = pace or Pace()
        self._clock = clock
        self._monotonic = monotonic
        self._watched = [
            (repository.name, branch)
            for repository in settings.repositories
            for branch in repository.branches
        ]
        self._examine: Callable[[], Awaitable[Sequence[Check]]] | None = None
        # Since when (monotonic) a check is other than people know it.
        self._turning: dict[str, float] = {}
        self._look_at = 0.0
        self._quiet_until = 0.0
        self._failures = 0
        self._hurried = False
        self._waiting: Sequence[Notice] = ()
        self._installed = True

    def examines(self, examine: Callable[[], Awaitable[Sequence[Check]]]) -> None:
        """Tell of troubles that `examine` finds."""
        self._examine = examine

    def addresses_changed(self) -> None:
        """Try again what waits."""
        self._hurried = True
        self._wake()

    def checks(self) -> list[Check]:
        """For health: whether messages arrive. Nothing when nobody is to be told."""
        if self._addresses() is None:
            return []
        if not self._installed:
            return [Check(NAME, False, "Apprise is not installed", apprise.INSTALL)]
        if not self._waiting:
            return [Check(NAME, True, "messages go out")]
        oldest = self._waiting[0]
        age = human_seconds(max(0, self._clock() - oldest.queued_at) / 1000)
        many = len(self._waiting)
        detail = f"{many} message{'s' * (many > 1)} wait for {age}: {oldest.error}"
        return [Check(NAME, False, detail, FIX)]

    async def run(self) -> None:
        """Look and send until cancelled."""
        self._installed = await asyncio.to_thread(apprise.installed)
        while True:
            seen = self._wake.count
            wait = await self.step()
            if wait > 0:
                await self._wake.wait(seen, wait)

    async def step(self) -> float:
        """Note what is new and send one message; return for how long nothing is due."""
        if self._addresses() is None:
            return IDLE
        for repo, branch in await self._database.read(notices.changed, self._watched):
            await self._database.write(self._note_branch, repo, branch)
        await self._look()
        if self._hurried:
            self._hurried, self._quiet_until = False, 0.0
            await self._database.write(notices.hurry_notices, self._clock())
        # Read only now: of those that change later `_hurried` tells.
        addresses = self._addresses()
        wait = IDLE if addresses is None else await self._try(addresses)
        self._waiting = await self._database.read(notices.waiting)
        if self._examine is None:
            return wait
        return max(0.0, min(wait, self._look_at - self._monotonic()))

    def _note_branch(
        self, connection: sqlite3.Connection, repo: str, branch: str
    ) -> None:
        """Settle the branch's newest verdict, with the message that it asks for."""
        news = notices.news(connection, repo, branch)
        if news is None:
            return
        now, url = self._clock(), self._settings.public_url
        since = builds.broken_since(connection, news.build.number)
        draft = wording.of_branch(news, since, public_url=url, now=now)
        notices.settle(
            connection,
            news.subject,
            news.state,
            at=now,
            build=news.build.number,
            draft=draft if draft.kind in self._settings.notify.on else None,
        )

    async def _look(self) -> None:
        """Ask how the service is, and settle what has stayed another for long enough."""
        now, limit = self._monotonic(), self._settings.notify.trouble_after
        if self._examine is None or "trouble" not in self._settings.notify.on:
            self._look_at = now + IDLE
            return
        if now < self._look_at:
            return
        found = {each.name: each for each in await self._examine()}
        known = await self._database.read(notices.troubles)
        wrong = {name for name, each in found.items() if not each.ok and name != NAME}
        turned = wrong ^ known
        self._turning = {name: self._turning.get(name, now) for name in turned}
        for name, since in self._turning.items():
            if now - since >= limit:
                await self._database.write(self._note_check, name, found.get(name))
        pace = self._pace
        every = min(max(limit / 5, pace.shortest_look), pace.longest_look)
        self._look_at = self._monotonic() + every

    def _note_check(
        self, connection: sqlite3.Connection, name: str, check: Check | None
    ) -> None:
        url = self._settings.public_url
        if check is not None and not check.ok:
            draft = wording.of_trouble(check, public_url=url)
        else:
            detail = check.detail if check else ""
            draft = wording.of_wellness(name, detail, public_url=url)
        notices.settle(
            connection,
            Subject(SERVICE, name),
            "broken" if draft.kind == "trouble" else "good",
            at=self._clock(),
            draft=draft,
        )

    async def _try(self, addresses: str) -> float:
        """Send the oldest message that is due; return for how long to wait then."""
        quiet = self._quiet_until - self._monotonic()
        if quiet > 0:
            return quiet
        now = self._clock()
        due = await self._database.read(notices.due, now)
        if not due:
            at = await self._database.read(notices.next_due_at)
            return IDLE if at is None else min(max(at - now, 100) / 1000, IDLE)
        sent = await self._database.read(notices.sent_since, now - HOUR_MS, now)
        if sent >= self._pace.hourly:
            return self._pace.longest_look
        # The last one of the hour stands for all that wait.
        await self._post(addresses, due if sent == self._pace.hourly - 1 else due[:1])
        return 0.0

    async def _post(self, addresses: str, some: Sequence[Notice]) -> None:
        ids = [each.id for each in some]
        reached = set(some[0].reached).intersection(*(each.reached for each in some))
        await self._database.write(notices.begin_notices, ids)
        letter = wording.message(some, self._settings.public_url)
        try:
            tried = await self._send(addresses, letter, reached=sorted(reached))
            error = "; ".join(f"{t.service}: {t.error}" for t in tried if not t.sent)
        except HostFault as fault:
            tried, error = [], str(fault)
        if not error:
            self._failures = 0
            await self._database.write(notices.notices_sent, ids, at=self._clock())
            return
        reached |= {each.mark for each in tried if each.sent}
        await self._failed(some, error, reached)

    async def _failed(
        self, some: Sequence[Notice], error: str, reached: set[str]
    ) -> None:
        now, ids = self._clock(), [each.id for each in some]
        if not self._waiting:
            log.warning("a message was not sent: %s", error)
        if now - some[0].queued_at > self._pace.keep_for * 1000:
            log.error("a message was given up: %s: %s", some[0].title, error)
            await self._database.write(notices.notices_sent, ids, at=now, error=error)
            return
        wait = self._wait(some[0].tries + 1)
        await self._database.write(
            notices.notices_failed,
            ids,
            error=error,
            reached=reached,
            next_try_at=now + round(wait * 1000),
        )
        if not reached:
            self._failures += 1
            pause = min(self._wait(self._failures), self._pace.longest_outage_pause)
            self._quiet_until = self._monotonic() + pause

    def _wait(self, tries: int) -> float:
        """Seconds before the next try, doubled each time."""
        wait = self._pace.first_retry * 2.0 ** min(tries - 1, 30)
        return min(wait, self._pace.longest_retry)
