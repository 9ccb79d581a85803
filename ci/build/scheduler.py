"""The scheduler claims queued builds, runs them, and writes how they end.

It is the only writer of running and final states. Everything it knows is in the
database: after `kill -9` the next server finds `running` rows and puts them back.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.adapters.logs import LogHub, LogWriter
from ci.build import asked, record
from ci.build.commits import check_wanted, settle_push
from ci.build.fetchable import FetchCheck
from ci.build.job import Builder, Job, Progress
from ci.build.verdict import Ended, decide
from ci.config import Repository, Settings
from ci.errors import (
    BuildCancelled,
    BuildInterrupted,
    BuildServerError,
    CommitFault,
    CommitVanished,
    HostFault,
)
from ci.history import paths, queue, requests
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import BuildState, RequestKind, Target
from ci.wake import Wake

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL = 30.0
PROGRESS_EVERY = 1.0
WRITE_AGAIN = 5.0
TIDY_EVERY = 50


@dataclass
class Running:
    """A build in hand: its task, and why it was told to end early, if it was."""

    task: asyncio.Task[None]
    reason: BuildCancelled | BuildInterrupted | None = None


@dataclass
class Scheduler:
    """Runs up to `settings.build.parallel` builds; make one, `await run()` it."""

    settings: Settings
    database: Database
    instance: int
    builders: Mapping[str, Builder]
    mirrors: Callable[[str], Mirror]
    hub: LogHub
    wake: Wake
    on_end: Callable[[str, float], None]
    fetch_check: FetchCheck | None = None
    retry_delays: tuple[float, ...] = (5.0, 30.0, 120.0, 300.0)
    running: dict[int, Running] = field(default_factory=dict)
    stopping: bool = False

    @property
    def context(self) -> str:
        return self.settings.github.status_context

    async def run(self) -> None:
        """Claim and answer until cancelled; cancelling leaves no build running."""
        try:
            while True:
                seen = self.wake.count
                await self._answer_requests()
                await self._fill_slots()
                await self.wake.wait(seen, await self._until_next_retry())
        finally:
            await self.interrupt()

    async def stop(self, grace: float) -> None:
        """Claim no more; give what runs `grace` seconds, then put it back."""
        self.stopping = True
        tasks = [running.task for running in self.running.values()]
        if tasks:
            log.info("stopping: %d builds get %gs to end", len(tasks), grace)
            await asyncio.wait(tasks, timeout=grace)
        await self.interrupt()

    async def interrupt(self) -> None:
        """End what runs now and put it back in the queue; returns when all has ended."""
        self.stopping = True
        for running in list(self.running.values()):
            running.reason = running.reason or BuildInterrupted("the server stopped")
            running.task.cancel()
        while self.running:
            await asyncio.wait([running.task for running in self.running.values()])

    async def _fill_slots(self) -> None:
        while not self.stopping and len(self.running) < self.settings.build.parallel:
            claimed = await self.database.write(
                queue.claim, instance=self.instance, at=now_ms(), context=self.context
            )
            if claimed is None:
                return
            self.wake()
            task = asyncio.create_task(
                self._work(claimed), name=f"build {claimed.number}"
            )
            self.running[claimed.number] = Running(task)

    async def _until_next_retry(self) -> float:
        due = await self.database.read(queue.next_retry_at, now_ms())
        return POLL if due is None else min(POLL, max(0.0, (due - now_ms()) / 1000))

    # One build, start to end

    async def _work(self, claimed: Claimed) -> None:
        begun = time.monotonic()
        progress = Progress()
        path = paths.log_path(self.settings.state_dir, claimed.number, claimed.attempt)
        log.info(
            "build #%d of %s %s begins, attempt %d",
            claimed.number,
            claimed.repo,
            claimed.sha[:7],
            claimed.attempt,
        )
        try:
            with LogWriter(path, self.settings.build.log_limit, self.hub) as writer:
                ended = await self._ended(claimed, writer, progress)
                writer.note(_last_line(ended))
        except HostFault as fault:
            # The log itself cannot be written: the disk, most likely.
            ended = decide(fault, progress.targets)
        try:
            await _to_the_end(
                self._end_surely(claimed, progress, ended, time.monotonic() - begun)
            )
        finally:
            del self.running[claimed.number]
            self.hub.finished(path)
            self.wake()
        await self._tidy(claimed)

    async def _ended(
        self, claimed: Claimed, writer: LogWriter, progress: Progress
    ) -> Ended:
        """How the attempt ended, also when it was told to."""
        try:
            return await self._attempt(claimed, writer, progress)
        except asyncio.CancelledError:
            running = self.running[claimed.number]
            reason = running.reason or BuildInterrupted("the server stopped")
            return decide(reason, progress.targets)

    async def _tidy(self, claimed: Claimed) -> None:
        """Let go of commits that were built; now and then clean the mirror up."""
        try:
            mirror = self.mirrors(claimed.repo)
            mirror.release(claimed.number)
            if claimed.number % TIDY_EVERY == 0:
                await mirror.tidy()
        except BuildServerError as error:
            log.warning("cleaning the mirror of %s: %s", claimed.repo, error)

    async def _attempt(
        self, claimed: Claimed, writer: LogWriter, progress: Progress
    ) -> Ended:
        """Try once; whatever goes wrong comes back as a value, but for cancellation."""
        try:
            async with asyncio.TaskGroup() as tasks:
                keeper = tasks.create_task(self._keep_progress(claimed, progress))
                targets = await self._build(claimed, writer, progress)
                ended = await self._fetchable(decide(None, targets))
                keeper.cancel()
        except* Exception as group:
            error = _innermost(group)
            if not isinstance(error, BuildServerError):
                log.error("build #%d", claimed.number, exc_info=error)
            ended = decide(error, progress.targets)
        return ended

    async def _fetchable(self, ended: Ended) -> Ended:
        if self.fetch_check is None or ended.state is not BuildState.SUCCEEDED:
            return ended
        said = await self.fetch_check(ended.targets)
        return replace(ended, summary=f"{ended.summary} · {said}") if said else ended

    async def _build(
        self, claimed: Claimed, writer: LogWriter, progress: Progress
    ) -> Sequence[Target]:
        repository = self._repository(claimed.repo)
        mirror = self.mirrors(claimed.repo)
        progress.say("fetching")
        await mirror.fetch_commit(claimed.sha, claimed.number)
        await check_wanted(self.database, mirror, claimed)
        added = await settle_push(
            self.database, mirror, claimed, repository, self.context
        )
        if added:
            self.wake()
        state_dir = self.settings.state_dir
        job = Job(
            claimed=claimed,
            repository=repository,
            mirror=mirror,
            cache=paths.cache_path(state_dir, claimed.repository),
            checkout=paths.checkout_path(state_dir, claimed.number),
            write=writer.write,
            progress=progress,
        )
        limit = self.settings.build.timeout
        deadline = asyncio.timeout(limit)
        try:
            async with deadline:
                return await self.builders[repository.builder].build(job)
        except TimeoutError:
            if not deadline.expired():
                raise  # something of ours gave up, and proves nothing
            raise CommitFault(f"timed out after {limit:g} seconds") from None

    def _repository(self, name: str) -> Repository:
        for repository in self.settings.repositories:
            if repository.name == name:
                return repository
        raise CommitVanished(f"{name} is no longer configured on this server")

    async def _keep_progress(self, claimed: Claimed, progress: Progress) -> None:
        """Write what changed, at most once per PROGRESS_EVERY seconds."""
        written = -1
        while True:
            if progress.version != written:
                written = progress.version
                await self.database.write(record.write_progress, claimed, progress)
                self.wake()
            await asyncio.sleep(PROGRESS_EVERY)

    async def _end_surely(
        self, claimed: Claimed, progress: Progress, ended: Ended, seconds: float
    ) -> None:
        """Write the end, again and again while the disk refuses it.

        A server that stops meanwhile leaves the row `running`, for the next to put back.
        """
        while True:
            try:
                return await self._end(claimed, progress, ended, seconds)
            except sqlite3.Error:
                log.exception("the end of build #%d", claimed.number)
                if self.stopping:
                    return
                await asyncio.sleep(WRITE_AGAIN)

    async def _end(
        self, claimed: Claimed, progress: Progress, ended: Ended, seconds: float
    ) -> None:
        summary, at = ended.summary, now_ms()
        if ended.retry is not None and (
            not ended.retry.counted or claimed.counted + 1 < 3
        ):
            delay = 0.0
            if ended.retry.delayed:
                step = min(claimed.attempt, len(self.retry_delays)) - 1
                delay = self.retry_delays[step]
            await self.database.write(
                record.requeue,
                claimed,
                progress,
                reason=summary,
                counted=ended.retry.counted,
                not_before=at + int(delay * 1000) if delay else 0,
                at=at,
                seconds=seconds,
            )
            log.warning("build #%d goes back: %s", claimed.number, summary)
            return
        await self.database.write(
            record.finish, claimed, progress, ended, at, seconds, self.context
        )
        self.on_end(ended.state, seconds)
        log.info("build #%d %s: %s", claimed.number, ended.state, summary)

    # What people ask

    async def _answer_requests(self) -> None:
        for kind in (RequestKind.CANCEL, RequestKind.RETRY):
            for request in await self.database.read(requests.unanswered, kind):
                act = self._cancel if kind is RequestKind.CANCEL else self._retry
                await act(request)
                self.wake()

    async def _cancel(self, request: requests.Request) -> None:
        reason = f"cancelled by {request.asked_by}"
        await self.database.write(asked.cancel, request, reason, self.context)
        running = self.running.get(request.build or 0)
        if running is not None:
            running.reason = BuildCancelled(reason)
            running.task.cancel()

    async def _retry(self, request: requests.Request) -> None:
        await self.database.write(asked.retry, request, self.context)


def _last_line(ended: Ended) -> str:
    if ended.retry is not None:
        return f"this attempt ended without a verdict: {ended.summary}"
    return f"{ended.state}: {ended.summary}"


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Finish `work` even when this task is cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _innermost(group: BaseExceptionGroup[Exception]) -> Exception:
    """The one error behind (nested) task groups; the first when there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, Exception):
        raise error
    return error
