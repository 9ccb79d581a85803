"""One attempt at one build: fetch, build, and look twice before blaming the commit.

Whatever goes wrong comes back as a value. A failure counts only when nothing was wrong
with the host meanwhile; an error is given the best reason that can be seen.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ci.adapters.git import Mirror
from ci.adapters.logs import LogWriter
from ci.adapters.strain import DUE, Strain
from ci.build import record
from ci.build.commits import check_wanted, settle_push
from ci.build.fetchable import FetchCheck
from ci.build.job import Builder, Job, Progress
from ci.build.slots import Slot
from ci.build.verdict import Ended, decide, doubted
from ci.config import Repository, Settings
from ci.errors import (
    BuildServerError,
    CommitFault,
    CommitVanished,
    DiskFull,
    HostFault,
    NetworkDown,
    RemoteBehind,
    RemoteDown,
    RemoteRefused,
)
from ci.history import paths
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import BuildState, Target
from ci.wake import Wake

log = logging.getLogger(__name__)

TICK = 1.0
# GitHub tells of a push before all of its servers know the commit. That it is gone is not
# believed in so many attempts: two and a half minutes, by the pauses of retries.py.
DOUBTED = 3


@dataclass(frozen=True)
class Tools:
    """What every attempt needs; `strain` watches the host for one that uses a builder.

    `shortage` looks at its disks now.
    """

    settings: Settings
    database: Database
    builders: Mapping[str, Builder]
    mirrors: Callable[[str], Mirror]
    wake: Wake
    strain: Callable[[str], Strain]
    shortage: Callable[[], Awaitable[DiskFull | None]]
    fetch_check: FetchCheck | None


class Attempt:
    """Make one, `run` it once."""

    def __init__(
        self,
        tools: Tools,
        claimed: Claimed,
        slot: Slot,
        writer: LogWriter,
        progress: Progress,
        *,
        suspect: bool,
        answered: Callable[[int], None],
    ) -> None:
        self._tools = tools
        self._claimed = claimed
        self._slot = slot
        self._writer = writer
        self._progress = progress
        # Its remote was out of reach when it was last asked.
        self._suspect = suspect
        self._answered = answered
        self._fetched = False
        self._left = tools.settings.build.timeout

    async def run(self) -> Ended:
        """Try once; only a cancellation is raised."""
        error, ended = None, decide(None, ())
        try:
            repository = self._repository()
            mirror = self._tools.mirrors(repository.name)
        except BuildServerError as unknown:
            return decide(unknown, ())
        strain = await asyncio.to_thread(self._tools.strain, repository.builder)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(self._keep(strain))
                targets = await self._build(repository, mirror, strain)
                ended = await self._fetchable(decide(None, targets))
                keeper.cancel()
        except* Exception as group:
            error = _innermost(group)
            if not isinstance(error, BuildServerError):
                log.error("build #%d", self._claimed.number, exc_info=error)
            ended = decide(error, self._progress.targets)
        if ended.state is BuildState.FAILED:
            return await self._believed(ended, mirror, strain)
        if ended.state is BuildState.ERROR:
            return await self._explained(error, ended, mirror, strain)
        return ended

    def _repository(self) -> Repository:
        for repository in self._tools.settings.repositories:
            if repository.name == self._claimed.repo:
                return repository
        raise CommitVanished(
            f"{self._claimed.repo} is no longer configured on this server"
        )

    async def _build(
        self, repository: Repository, mirror: Mirror, strain: Strain
    ) -> Sequence[Target]:
        claimed, state_dir = self._claimed, self._tools.settings.state_dir
        self._progress.step("fetching")
        await self._fetch(repository, mirror)
        job = Job(
            claimed=claimed,
            repository=repository,
            mirror=mirror,
            cache=paths.cache_path(state_dir, claimed.repository),
            checkout=paths.checkout_path(state_dir, claimed.number),
            write=self._writer.write,
            progress=self._progress,
            slot=self._slot,
            strain=strain,
        )
        self._left = self._tools.settings.build.timeout
        return await self._tools.builders[repository.builder].build(job)

    async def _fetch(self, repository: Repository, mirror: Mirror) -> None:
        """Have the commit; raises RemoteDown when the remote does not give it."""
        claimed, database = self._claimed, self._tools.database
        try:
            async with self._slot.waiting("the remote", at_once=self._suspect):
                await self._have_commit(mirror)
                await check_wanted(database, mirror, claimed)
        except (NetworkDown, RemoteRefused) as error:
            raise RemoteDown(str(error)) from error
        self._fetched = True
        self._answered(claimed.repository)
        context = self._tools.settings.github.status_context
        if await settle_push(database, mirror, claimed, repository, context):
            self._tools.wake()

    async def _have_commit(self, mirror: Mirror) -> None:
        """Raises RemoteBehind for a commit that is not there, as long as that may pass."""
        try:
            await mirror.fetch_commit(self._claimed.sha, self._claimed.number)
        except CommitVanished as error:
            if self._claimed.attempt > DOUBTED:
                raise
            raise RemoteBehind(
                "the remote does not have this commit yet: a push may take a moment to "
                "be on all its servers"
            ) from error

    async def _fetchable(self, ended: Ended) -> Ended:
        check = self._tools.fetch_check
        if check is None or ended.state is not BuildState.SUCCEEDED:
            return ended
        # Nothing more is done here: the cache may take its time.
        self._slot.release()
        self._progress.step("waiting for the cache", ended.targets)
        said = await check(ended.targets)
        return replace(ended, summary=f"{ended.summary} · {said}") if said else ended

    async def _keep(self, strain: Strain) -> None:
        """Every second: write what changed, look at the host, and count the time.

        Time in which the build waits for others does not count, nor what this host stood
        still for. Raises CommitFault when the rest is longer than allowed.
        """
        clock = asyncio.get_running_loop().time
        written, before = -1, clock()
        while True:
            if self._progress.version != written:
                written = await self._write(written)
            await asyncio.sleep(TICK)
            await asyncio.to_thread(strain.look)
            before, passed = clock(), clock() - before
            if not self._slot.waits and passed < DUE:
                self._left -= passed
            if self._left <= 0:
                self._progress.expired = True
                limit = self._tools.settings.build.timeout
                raise self._progress.overdue or CommitFault(
                    f"timed out after {limit:g} seconds"
                )

    async def _write(self, written: int) -> int:
        """Write the progress; returns the version that the history has now."""
        version = self._progress.version
        try:
            await self._tools.database.write(
                record.write_progress, self._claimed, self._progress
            )
        except sqlite3.Error as error:
            # It is for people to see; the build needs none of it.
            log.warning("progress of build #%d: %s", self._claimed.number, error)
            return written
        self._tools.wake()
        return version

    # What to make of a bad end

    async def _believed(self, ended: Ended, mirror: Mirror, strain: Strain) -> Ended:
        """A failure, or an error when something was wrong with the host meanwhile."""
        fault = await asyncio.to_thread(strain.reason) or await self._damage(mirror)
        return ended if fault is None else doubted(ended, fault)

    async def _damage(self, mirror: Mirror) -> HostFault | None:
        """Why the commit's files cannot be read; the next fetch then mends the mirror."""
        try:
            if not self._fetched or await mirror.intact(self._claimed.sha):
                return None
        except HostFault as fault:
            return fault
        return HostFault("this server's mirror of the repository was damaged")

    async def _explained(
        self,
        error: Exception | None,
        ended: Ended,
        mirror: Mirror,
        strain: Strain,
    ) -> Ended:
        """An error with the reason that is seen when one looks at the host."""
        if ended.retry is None or ended.retry.remote:
            return ended
        if ended.retry.counted:
            seen: HostFault | None = await self._tools.shortage()
            seen = seen or await asyncio.to_thread(strain.reason)
            if seen is not None:
                return doubted(ended, seen)
        if type(error) is HostFault and (damage := await self._damage(mirror)):
            return doubted(ended, damage)
        if error is None or type(error) in (HostFault, NetworkDown):
            # Whatever is said to be wrong: without a network, that is.
            try:
                await mirror.remote_refs(self._repository().branches)
            except NetworkDown as down:
                return doubted(ended, RemoteDown(str(down)))
            except BuildServerError:
                return ended
        return ended


def _innermost(group: BaseExceptionGroup[Exception]) -> Exception:
    """The one error behind (nested) task groups; the first when there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise error
    return error
