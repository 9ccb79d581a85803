"""Builds with fresh inputs: the head of a branch, as if its lock had been updated today.

Such a commit is our own: it is in the mirror only, on no branch, and GitHub is told nothing
of it. The same lock on the same head is the same commit, and that is built once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ci.adapters import scratch
from ci.adapters.git import Mirror
from ci.adapters.git.amend import AUTHOR
from ci.adapters.host import now_ms
from ci.adapters.nix_eval import Evaluator
from ci.adapters.nix_eval.flake import FlakeUrl
from ci.adapters.nix_eval.lock import parse_lock
from ci.adapters.nix_eval.update import changed_inputs
from ci.config import Repository, Settings
from ci.errors import BuildServerError
from ci.history import paths, updates
from ci.history.database import Database
from ci.history.updates import Asked
from ci.models import Check, Commit
from ci.text import printable
from ci.wake import Wake

log = logging.getLogger(__name__)

# Seconds from a try that failed to the next, after the first failure, the second, ….
DELAYS = (60.0, 300.0, 900.0, 3600.0)
# Seconds after which the clock is looked at again: it may have been put right.
TICK = 60.0
NAMES_IN_TITLE = 5
LONGEST_NAME = 40
NO_BUILD = 0


@dataclass
class Updates:
    """Updates the inputs of each repository every `flake_update`; `run` until cancelled.

    `numbers` are the ids of the repositories by name; `evaluator` is None where nothing is
    built. `may_begin` says why no build may begin now, and then nothing is fetched either.
    """

    settings: Settings
    database: Database
    numbers: Mapping[str, int]
    mirrors: Callable[[str], Mirror]
    evaluator: Evaluator | None
    wake: Wake
    may_begin: Callable[[], str] = lambda: ""
    _asked: dict[int, Asked] = field(default_factory=dict)

    @property
    def repositories(self) -> Sequence[Repository]:
        """Those whose inputs are updated."""
        if self.evaluator is None:
            return ()
        wanted = self.settings.repositories
        return [each for each in wanted if each.flake_update != math.inf]

    async def run(self) -> None:
        """Ask for the inputs of one repository after the other, each at its time."""
        if self.evaluator is None or not self.repositories:
            await asyncio.Event().wait()
            return
        self._asked = await self.database.read(updates.asked)
        while True:
            for repository in self.repositories:
                if self._due_in(repository) <= 0 and not self.may_begin():
                    await self._visit(self.evaluator, repository)
            due = min(self._due_in(repository) for repository in self.repositories)
            await asyncio.sleep(TICK if self.may_begin() else max(0.0, min(due, TICK)))

    def checks(self) -> list[Check]:
        """For health: whether the inputs could be asked for the last time."""
        if not self.repositories:
            return []
        last = {each.name: self._last(each) for each in self.repositories}
        found = [
            f"{name}: {asked.error}" for name, asked in last.items() if asked.error
        ]
        if found:
            fix = "it is tried again by itself; see to the inputs, and this host's network"
            return [Check("updates", False, "; ".join(found), fix)]
        names = ", ".join(last)
        return [Check("updates", True, f"the inputs of {names} are asked for in time")]

    def _last(self, repository: Repository) -> Asked:
        return self._asked.get(self.numbers[repository.name], Asked(0))

    def _due_in(self, repository: Repository) -> float:
        return due_in(self._last(repository), repository.flake_update, now_ms())

    async def _visit(self, evaluator: Evaluator, repository: Repository) -> None:
        """One try, good or bad, and what is remembered of it."""
        number, last = self.numbers[repository.name], self._last(repository)
        try:
            await self._update(evaluator, repository, number)
            asked = Asked(now_ms())
        except BuildServerError as error:
            asked = Asked(now_ms(), last.failures + 1, str(error))
            log.warning("updating the inputs of %s: %s", repository.name, error)
        self._asked[number] = asked
        await self.database.write(updates.remember, number, asked)

    async def _update(
        self, evaluator: Evaluator, repository: Repository, number: int
    ) -> None:
        mirror, folder = self.mirrors(repository.name), repository.flake_dir
        head = await mirror.fetch_branch(repository.branches[0])
        url = mirror.flake_url(NO_BUILD, head, folder)
        lock_file = FlakeUrl.parse(url).file("flake.lock")
        old = await evaluator.lock(url, mirror.path)
        await asyncio.to_thread(parse_lock, old)
        bare = await mirror.amend(head, lock_file, None, "without its lock")
        async with self._scratch(number) as place:
            new = await evaluator.updated_lock(
                mirror.own_url(bare, folder), mirror=mirror.path, scratch=place
            )
        changed = await asyncio.to_thread(changed_inputs, old, new)
        await mirror.keep_own(await self.database.read(updates.commits, number))
        if not changed:
            log.info("%s: no input has changed", repository.name)
            return
        said = title(changed)
        sha = await mirror.amend(head, lock_file, new, said)
        build = await self.database.write(
            updates.enqueue,
            number,
            Commit(sha, said, AUTHOR),
            at=now_ms(),
            context=self.settings.github.status_context,
        )
        if build is not None:
            log.info("%s: build #%d is for the %s", repository.name, build, said)
        self.wake()

    @asynccontextmanager
    async def _scratch(self, number: int) -> AsyncIterator[Path]:
        place = paths.update_path(self.settings.state_dir, number)
        await scratch.emptied(place)
        try:
            yield place
        finally:
            await scratch.removed(place)


def due_in(last: Asked, every: float, now: int) -> float:
    """Seconds to the next try, 0 or less when it is due; `now` is in milliseconds.

    What was asked for in the future was asked for by a clock that has been put right.
    """
    if last.failures:
        every = min(every, DELAYS[min(last.failures, len(DELAYS)) - 1])
    return min(every, every - (now - last.at) / 1000)


def title(changed: Sequence[str]) -> str:
    """`flake update: nixpkgs, home-manager (2 inputs)`."""
    names = [printable(name[:LONGEST_NAME]) for name in changed[:NAMES_IN_TITLE]]
    if len(changed) > NAMES_IN_TITLE:
        names.append("…")
    count = "1 input" if len(changed) == 1 else f"{len(changed)} inputs"
    return f"flake update: {', '.join(names)} ({count})"
