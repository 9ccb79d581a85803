"""Missed means found: branches are compared with their remotes, whatever webhooks came.

At the start, on wake, and every `github.reconcile_every`; webhooks are hints, the remote's
refs are the truth. Each repository is looked at by a task of its own: a remote that hangs
delays nobody else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Sequence

from ci.adapters.git import Mirror
from ci.adapters.github import GitHub
from ci.adapters.host import SleepWatch, now_ms
from ci.adapters.metrics import Metrics
from ci.config import Repository, Settings
from ci.history import missed, queue, repositories, watched
from ci.history.database import Database
from ci.history.missed import Tally
from ci.history.watched import Unannounced
from ci.intake import findings
from ci.intake.heads import Heads
from ci.intake.look import Look
from ci.intake.redelivery import Redelivery
from ci.intake.visits import Pace, Visits
from ci.models import Check, human_seconds
from ci.wake import Wake

log = logging.getLogger(__name__)


class Reconcile:
    """`run` until cancelled; `checks` and the numbers may be asked at any time.

    `mirrors` gives the mirror of a repository by its configured name; `on_return` is
    told when what was out of reach may be there again: how many seconds the host slept,
    as soon as it has been noticed, or 0 when a remote answers that did not. With
    `reconcile_every = "never"` nothing runs.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        mirrors: Callable[[str], Mirror],
        github: GitHub,
        wake: Wake,
        *,
        on_return: Callable[[float], None] = lambda slept: None,
        watch: SleepWatch | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._database = database
        self._settings = settings
        self._mirrors = mirrors
        self._github = github
        self._wake = wake
        self._on_return = on_return
        self._watch = watch or SleepWatch()
        self._pace = pace or Pace()
        self._visits: Sequence[Visits] = ()
        self._hurry = False
        self._stale = True
        self._tally = Tally()
        self._unannounced: Sequence[Unannounced] = ()

    @property
    def every(self) -> float:
        """Seconds between two looks; infinity for never."""
        return self._settings.github.reconcile_every

    async def run(self) -> None:
        """Look at every repository until cancelled."""
        if self.every == math.inf:
            await asyncio.Event().wait()
        names = [repository.name for repository in self._settings.repositories]
        numbers = await self._database.write(repositories.ensure, names)
        self._visits = [
            self._visit(repository, numbers[repository.name])
            for repository in self._settings.repositories
        ]
        self._stale = True
        self._watch.look()
        async with asyncio.TaskGroup() as group:
            for visits in self._visits:
                group.create_task(visits.run(self._notice, self._looked))
                if visits.redelivery is not None:
                    group.create_task(visits.redelivery.run())
            await self._watch_over()

    def checks(self) -> list[Check]:
        """What can be said at once, for `/health`."""
        if self.every == math.inf:
            return [findings.OFF]
        found = [findings.looking(self._visits, self._pace.slow)]
        if self._settings.github.webhook:
            found.append(findings.announcing(self._overdue()))
            redeliveries = [visits.redelivery for visits in self._visits]
            troubles = [each.trouble for each in redeliveries if each and each.trouble]
            found += findings.missing(self._tally, troubles)
        return found

    def measured_by(self, metrics: Metrics) -> None:
        """Have the numbers asked for at each scrape."""
        watched_numbers: Sequence[tuple[str, str, Callable[[], float]]] = (
            (
                "missed_deliveries",
                "Deliveries that GitHub made and this server did not see.",
                lambda: self._tally.missed,
            ),
            (
                "recovered_deliveries",
                "Missed deliveries that came after all.",
                lambda: self._tally.recovered,
            ),
            (
                "seconds_since_good_look",
                "Since the repository looked at longest ago was compared with its remote.",
                self._since_good_look,
            ),
        )
        for name, help_text, read in watched_numbers:
            metrics.watch(name, help_text, read)

    def credential_changed(self) -> None:
        """What GitHub, or a remote, did not allow it may allow now."""
        for visits in self._visits:
            visits.look.heads.forgive()
            if visits.redelivery is not None:
                visits.redelivery.forgive()
            if visits.trouble:
                visits.stir()
        self._back(0.0)

    def _since_good_look(self) -> float:
        """Seconds; infinity as long as a repository was never looked at."""
        looked = [visits.good_at for visits in self._visits]
        oldest = min(
            (-math.inf if at is None else at for at in looked), default=-math.inf
        )
        return time.monotonic() - oldest

    def _overdue(self) -> list[Unannounced]:
        """Heads that GitHub had time enough to tell of; of branches still watched."""
        latest = now_ms() - int(self._pace.grace * 1000)
        configured = {
            (repository.name, branch)
            for repository in self._settings.repositories
            for branch in repository.branches
        }
        return [
            each
            for each in self._unannounced
            if each.seen_at < latest and (each.repo, each.branch) in configured
        ]

    def _visit(self, repository: Repository, number: int) -> Visits:
        def mirror() -> Mirror:
            return self._mirrors(repository.name)

        settings = self._settings.github
        heads = Heads(self._github, settings.api_url, repository.url, mirror)
        look = Look(
            self._database,
            repository,
            number,
            mirror,
            heads,
            settings.status_context,
            self._wake,
            fresh=int(self._pace.fresh * 1000),
        )
        redelivery = None
        if settings.webhook:
            redelivery = Redelivery(
                self._database,
                self._github,
                repository.name,
                number,
                settings.public_webhook_url,
                self._asked,
                pace=self._pace.redelivery,
            )
        return Visits(repository.name, look, redelivery, self.every, self._pace)

    def _looked(self, answers_again: bool) -> None:
        self._stale = True
        if answers_again:
            self._back(0.0)

    def _asked(self) -> None:
        self._stale = True
        self._wake()

    async def _watch_over(self) -> None:
        """Notice sleep, and what became of news that was late."""
        seen = self._wake.count
        while True:
            self._notice()
            try:
                await self._write_down()
            except sqlite3.Error as error:
                # A full disk, or a lock: no reason to break off what looks at remotes.
                log.warning("what was found is written down later: %s", error)
                await asyncio.sleep(self._pace.tick)
                continue
            seen = await self._wake.wait(seen, self._pace.tick)

    async def _write_down(self) -> None:
        """Raises sqlite3.Error, and then all of it is still to be done."""
        hurry, self._hurry = self._hurry, False
        stale, self._stale = self._stale, False
        try:
            if hurry:
                await self._database.write(queue.hurry)
                hurry = False
                self._wake()
            if stale or self._tally.open or self._unannounced:
                found = await self._database.write(_news)
                self._tally, self._unannounced = found
        except sqlite3.Error:
            self._hurry, self._stale = self._hurry or hurry, True
            raise

    def _notice(self) -> None:
        """Look at the clocks; after sleep everything is looked at."""
        slept = self._watch.look(self._pace.tick)
        if not slept:
            return
        log.info("awake after %s: looking for missed pushes", human_seconds(slept))
        for visits in self._visits:
            visits.stir()
        self._back(slept)

    def _back(self, slept: float) -> None:
        """What waits for others may be tried, however long it meant to wait."""
        self._hurry = True
        self._wake()
        self._on_return(slept)


def _news(connection: sqlite3.Connection) -> tuple[Tally, list[Unannounced]]:
    """What is still out of order, after all that came since."""
    missed.recover(connection)
    watched.heard(connection)
    return missed.tally(connection, now_ms()), watched.unannounced(connection)
