"""Asks GitHub to deliver again what this server never got, where the token may.

GitHub never does so by itself. The commits are found by looking at the branches anyway;
this tells how many deliveries were lost on the way, and brings what only they can tell.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from ci.adapters.github import GitHub, hooks
from ci.adapters.github.hooks import Delivery
from ci.adapters.host import now_ms
from ci.errors import GitHubError, GitHubRefused
from ci.history import missed
from ci.history.database import Database

# Seconds between two requests that change something, as GitHub wants it.
PACE = 1.0
# A credential that may not is asked about again after so many seconds.
DENIED = 86400.0
# GitHub's list may lag behind its deliveries; what was listed once is not read again.
OVERLAP = missed.HOUR
MEMORY = 30 * missed.DAY

log = logging.getLogger(__name__)


class Redelivery:
    """The webhook of `repo` (`owner/name`, `number` in the history), at `url` if known.

    `done` is called after each look; `trouble` says why the last one told nothing.
    `pace` is in seconds.
    """

    def __init__(
        self,
        database: Database,
        github: GitHub,
        repo: str,
        number: int,
        url: str,
        done: Callable[[], None],
        *,
        pace: float = PACE,
    ) -> None:
        self._done = done
        self._database = database
        self._github = github
        self._repo = repo
        self._number = number
        self._url = url
        self._pace = pace
        self._due = asyncio.Event()
        self._denied_until = 0.0
        self._read_until: dict[str, int] = {}
        self.trouble = ""

    def stir(self) -> None:
        """Look soon."""
        self._due.set()

    def forgive(self) -> None:
        """Ask again what a credential did not allow: there is another one."""
        self._denied_until = 0.0
        self._due.set()

    async def run(self) -> None:
        """Look each time that somebody stirs, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if time.monotonic() >= self._denied_until:
                self.trouble = await self._trouble()
                self._done()

    async def _trouble(self) -> str:
        """Look; why that was in vain, empty when it was not."""
        try:
            await self.look()
        except GitHubRefused as error:
            self._denied_until = time.monotonic() + DENIED
            log.info("no deliveries of %s: %s", self._repo, error)
            return (
                f"GitHub does not let us see what it delivered for {self._repo}; a token "
                f"with the permission Webhooks: write may ({error})"
            )
        except GitHubError as error:
            return f"what GitHub delivered for {self._repo} is not known now: {error}"
        except Exception as error:
            log.exception("deliveries of %s", self._repo)
            return f"looking for missed deliveries of {self._repo} failed: {error}"
        return ""

    async def look(self) -> None:
        """Note what was missed, and ask for it.

        Raises GitHubRefused when the credential may not, other GitHubErrors.
        """
        if self._github.trouble():
            return
        for hook in await self._hooks():
            begun = now_ms()
            made = await self._deliveries(hook, begun)
            wanted = await self._database.write(
                missed.record, self._number, hook, _failed(made), at=begun
            )
            self._read_until[hook] = begun - OVERLAP
            await self._ask_for(hook, made, wanted)

    async def _hooks(self) -> list[str]:
        """Our webhook by its address; else those that have told us of pushes."""
        if self._url:
            found = await hooks.find(self._github, self._repo, self._url)
            if found:
                return found
        since = now_ms() - MEMORY
        return await self._database.read(missed.hooks, self._number, since)

    async def _deliveries(self, hook: str, now: int) -> list[Delivery]:
        """Pushes of the last days; only what is new, where nothing is open."""
        since = now - missed.WINDOW
        if not await self._database.read(missed.open_since, self._number, now):
            since = max(since, self._read_until.get(hook, 0))
        made = await hooks.deliveries(self._github, self._repo, hook, since)
        return [delivery for delivery in made if delivery.event == "push"]

    async def _ask_for(
        self, hook: str, made: Iterable[Delivery], wanted: Iterable[str]
    ) -> None:
        newest: dict[str, int] = {}
        for delivery in made:
            newest[delivery.guid] = max(delivery.id, newest.get(delivery.guid, 0))
        for guid in wanted:
            if guid not in newest:
                continue
            try:
                await hooks.redeliver(self._github, self._repo, hook, newest[guid])
            except GitHubRefused as error:
                if error.status in (403, 404):
                    raise
                # This one cannot be had again; the next may.
                log.warning("delivery %s does not come again: %s", guid, error)
            await self._database.write(missed.asked, hook, guid, at=now_ms())
            await asyncio.sleep(self._pace)


def _failed(made: Iterable[Delivery]) -> list[tuple[str, int]]:
    """(GUID, time of the first try) of what no try has delivered, oldest first."""
    first: dict[str, int] = {}
    delivered = set()
    for delivery in made:
        first[delivery.guid] = min(delivery.at, first.get(delivery.guid, delivery.at))
        if delivery.ok:
            delivered.add(delivery.guid)
    failed = [(guid, at) for guid, at in first.items() if guid not in delivered]
    return sorted(failed, key=lambda each: each[1])
