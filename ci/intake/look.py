"""One comparison of a repository's watched branches with its remote.

What the remote is asked must be newer than what we knew before asking, and nothing may
happen in between: so the history is read first, then the remote, and the transaction that
draws the conclusions begins by making sure that no push came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ci.adapters.git import Mirror
from ci.adapters.git.reach import left_behind
from ci.adapters.host import now_ms
from ci.config import Repository
from ci.errors import CommitVanished, HostFault, NetworkDown
from ci.history import branches, endings, queue, watched
from ci.history.database import Database
from ci.history.watched import GONE, Standing, Watched
from ci.intake import plan
from ci.intake.gap import missing
from ci.intake.heads import Heads
from ci.intake.push import Author, PushedCommit
from ci.models import Cause

# Milliseconds for which a delivery is believed more than a remote that still shows a
# head from before it: a forge has many servers, and not all know a push at once.
FRESH = 5000
TRIES = 3

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Sight:
    """What was seen of one branch, and what follows from it.

    `commits` (oldest first, the head last) are to have builds; none when all is as the
    history has it. `lost` are the numbers of builds that a force push left behind.
    """

    branch: str
    head: Watched
    before: Standing
    commits: tuple[PushedCommit, ...] = ()
    lost: frozenset[int] = field(default_factory=frozenset)

    @property
    def changes(self) -> bool:
        """Whether more follows than that the remote was asked."""
        deleted = self.head.sha == GONE and self.before.is_there
        return bool(self.commits) or (deleted and self.before.is_known)


class Look:
    """Compares `repository` with its remote, each time it is called.

    `number` is its id in the history, `context` the name under which statuses are
    posted; `wake` is rung after a change. `fresh` is in milliseconds. Setting `stirred`
    breaks off what is being asked, as long as it is set.
    """

    def __init__(
        self,
        database: Database,
        repository: Repository,
        number: int,
        mirror: Callable[[], Mirror],
        heads: Heads,
        context: str,
        wake: Callable[[], None],
        *,
        fresh: int = FRESH,
    ) -> None:
        self._database = database
        self._repository = repository
        self._number = number
        self._mirror = mirror
        self.heads = heads
        self._context = context
        self._wake = wake
        self._fresh = fresh
        self._absent: frozenset[str] = frozenset()
        self.stirred = asyncio.Event()

    @property
    def absent(self) -> Sequence[str]:
        """The watched branches that the remote did not have when it was last asked."""
        return [name for name in self._repository.branches if name in self._absent]

    @property
    def sees_nothing(self) -> bool:
        """Whether the remote has none of the watched branches."""
        return len(self.absent) == len(self._repository.branches)

    async def __call__(self, *, alarm: Callable[[], bool]) -> bool:
        """Enqueue what nobody told of; returns whether all was settled.

        Not settled is a branch that moves at this very moment: look again soon. `alarm`
        tells, after the remote, whether a head that moved should have been announced.
        Raises HostFault, … as the remote and the mirror do.
        """
        left: Sequence[str] = self._repository.branches
        for _ in range(TRIES):
            left = await self._look(left, alarm)
            if not left:
                return True
        return False

    async def _look(
        self, names: Sequence[str], alarm: Callable[[], bool]
    ) -> Sequence[str]:
        """Settle each branch; returns those that moved meanwhile.

        What is wrong with one branch is raised when the others are settled.
        """
        before = await self._database.read(
            standings, self._number, names, now_ms() - self._fresh
        )
        seen = {branch: standing.watched for branch, standing in before.items()}
        heads = await self._asked(self.heads(seen))
        gone = {branch for branch, head in heads.items() if head.sha == GONE}
        self._absent = (self._absent - heads.keys()) | gone
        again, fault = [], None
        for branch, standing in before.items():
            try:
                if not await self._settle(branch, standing, heads[branch], alarm):
                    again.append(branch)
            except NetworkDown:
                raise
            except HostFault as error:
                fault = error
        if fault is not None:
            raise fault
        return again

    async def _settle(
        self,
        branch: str,
        before: Standing,
        head: Watched,
        alarm: Callable[[], bool],
    ) -> bool:
        """Do what follows from a head; False when the branch moved while we looked."""
        try:
            sight = await self._compare(branch, before, head)
        except CommitVanished:
            return False
        if sight is None:
            return False
        added = await self._database.write(
            settle,
            self._repository,
            self._number,
            sight,
            at=now_ms(),
            context=self._context,
            alarm=alarm(),
        )
        if added:
            log.info(
                "%s: %d commits of %s that nobody told of, up to %s",
                self._repository.name,
                added,
                branch,
                sight.head.sha[:7],
            )
        if sight.changes:
            self._wake()
        return added is not None

    async def _compare(
        self, branch: str, before: Standing, head: Watched
    ) -> Sight | None:
        """What follows from a head; None where a push that just came says otherwise."""
        if await self._is_settled(branch, before, head):
            return Sight(branch, head, before)
        if before.pushed_lately and head.sha in (GONE, *before.on_branch):
            return None
        if head.sha == GONE:
            return Sight(branch, head, before)
        mirror = self._mirror()
        sha = await self._asked(mirror.fetch_branch(branch))
        if sha != head.sha:
            if sha in before.on_branch:
                return None
            head = Watched(sha, "")
        known = () if self._repository.policy == "latest" else before.known
        commits = await missing(mirror, sha, known)
        lost = frozenset(await left_behind(mirror, sha, before.waiting))
        pushed = tuple(
            PushedCommit(
                id=each.sha, message=each.message, author=Author(name=each.author)
            )
            for each in commits
        )
        return Sight(branch, head, before, pushed, lost)

    async def _asked(self, question: Coroutine[Any, Any, T]) -> T:
        """The remote's answer; raises NetworkDown when stirred before it came.

        Who has slept holds connections that nobody at the other end knows any more, and
        would listen to them for a minute.
        """
        answer = asyncio.create_task(question)
        stirred = asyncio.create_task(self.stirred.wait())
        try:
            await asyncio.wait((answer, stirred), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise NetworkDown("the remote is asked anew: what was asked is too old")
            return await answer
        finally:
            answer.cancel()
            stirred.cancel()
            await asyncio.gather(answer, stirred, return_exceptions=True)

    async def _is_settled(self, branch: str, before: Standing, head: Watched) -> bool:
        """Whether the head is the newest build, and all on the way to it was told."""
        last = before.watched
        if head.sha == GONE:
            return last is not None and last.sha == GONE
        if last is None or last.sha == GONE or before.newest_sha != head.sha:
            return False
        if before.vanished:
            # The remote shows it after all.
            return False
        if last.sha == head.sha:
            return True
        return await self._database.read(
            watched.told, self._number, branch, last.sha, head.sha
        )


def standings(
    connection: sqlite3.Connection, here: int, names: Sequence[str], lately: int
) -> Mapping[str, Standing]:
    """What the history knows of these branches."""
    return {name: watched.standing(connection, here, name, lately) for name in names}


def settle(
    connection: sqlite3.Connection,
    repository: Repository,
    here: int,
    sight: Sight,
    *,
    at: int,
    context: str,
    alarm: bool,
) -> int | None:
    """Draw the conclusions, all or none; returns how many builds were made.

    None when the branch is not as it was before the look: then nothing was done.
    """
    branch, before = sight.branch, sight.before
    newest = watched.newest(connection, here, branch)
    if (newest and newest[0]) != before.newest:
        return None
    if watched.find(connection, here, branch) != before.watched:
        return None
    if sight.head.sha == GONE and before.is_there:
        endings.branch_deleted(connection, here, branch, at=at, context=context)
    added = _enqueue(connection, repository, here, sight, at, context)
    if before.is_known or sight.head.sha != GONE:
        unannounced = alarm and _should_be_told(connection, here, sight)
        watched.seen(
            connection, here, branch, sight.head, at=at, unannounced=unannounced
        )
    return added


def _enqueue(
    connection: sqlite3.Connection,
    repository: Repository,
    here: int,
    sight: Sight,
    at: int,
    context: str,
) -> int:
    if not sight.commits:
        return 0
    branch, head = sight.branch, sight.commits[-1].id
    shas = [commit.id for commit in sight.commits]
    had = queue.numbers(connection, here, shas)
    numbers = queue.enqueue(
        connection,
        here,
        branch,
        [commit.commit() for commit in sight.commits],
        cause=Cause.RECONCILE,
        head=head,
        at=at,
        context=context,
        reasons=plan.reasons(sight.commits, repository),
    )
    if repository.policy == "latest":
        endings.supersede(connection, here, branch, at=at, context=context)
    below = branches.queued_below(connection, here, branch, numbers[-1])
    lost = [number for number, _ in below if number in sight.lost]
    reason = endings.pushed_away(branch, head)
    endings.skip(connection, lost, reason, at=at, context=context)
    return len(numbers) - len(had)


def _should_be_told(connection: sqlite3.Connection, here: int, sight: Sight) -> bool:
    """Whether a branch that we knew has moved and no delivery said so."""
    last, sha = sight.before.watched, sight.head.sha
    if last is None or sha in (GONE, last.sha):
        return False
    return not watched.announced(connection, here, sight.branch, sha)
