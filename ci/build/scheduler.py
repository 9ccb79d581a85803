"""The scheduler claims queued builds, runs them, and writes how they end.

It is the only writer of running and final states. Everything it knows is in the
database: after `kill -9` the next server finds `running` rows and puts them back.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.adapters.logs import LogHub, LogWriter
from ci.adapters.strain import Strain
from ci.build import asked, record
from ci.build.attempt import Attempt, Tools
from ci.build.fetchable import FetchCheck
from ci.build.job import Builder, Progress
from ci.build.retries import DELAYS, Retries
from ci.build.slots import Slot, Slots
from ci.build.verdict import Ended, decide
from ci.config import Settings
from ci.errors import (
    BuildCancelled,
    BuildInterrupted,
    BuildServerError,
    DiskFull,
    HostFault,
)
from ci.history import paths, queue, requests
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import Check, RequestKind
from ci.wake import Wake

log = logging.getLogger(__name__)
T = TypeVar("T")

POLL = 30.0
POLL_HELD_BACK = 2.0
WRITE_AGAIN = 5.0
TIDY_EVERY = 50
# Builds in hand beyond those that work: whatever they wait for, they take memory.
MOST_WAITING = 16


@dataclass
class Running:
    """A build in hand: its task, and why it was told to end early, if it was."""

    task: asyncio.Task[None]
    reason: BuildCancelled | BuildInterrupted | None = None


@dataclass
class Scheduler:
    """Runs up to `settings.build.parallel` builds; make one, `await run()` it.

    Builds that wait for somebody else's machine do not count (see slots.py). `strain`
    watches the host for a build by the named builder, `shortage` looks at its disks now.
    """

    settings: Settings
    database: Database
    instance: int
    builders: Mapping[str, Builder]
    mirrors: Callable[[str], Mirror]
    hub: LogHub
    wake: Wake
    on_end: Callable[[str, float], None]
    strain: Callable[[str], Strain]
    shortage: Callable[[], Awaitable[DiskFull | None]]
    fetch_check: FetchCheck | None = None
    retry_delays: Sequence[float] = DELAYS
    # Why no build may begin now; empty when one may.
    may_begin: Callable[[], str] = lambda: ""
    running: dict[int, Running] = field(default_factory=dict)
    stopping: bool = False

    def __post_init__(self) -> None:
        self.retries = Retries(self.database, self.retry_delays)
        self.slots = Slots(self.settings.build.parallel, self.wake)

    @property
    def context(self) -> str:
        return self.settings.github.status_context

    async def run(self) -> None:
        """Claim and answer until cancelled; cancelling leaves no build running.

        After an error of its own, builds go on and this may be run again.
        """
        try:
            while True:
                seen, pause = self.wake.count, WRITE_AGAIN
                try:
                    await self._answer_requests()
                    await self._fill_slots()
                    pause = await self._until_next_retry()
                except sqlite3.Error:
                    # A full disk, perhaps. What runs goes on, and may make room.
                    log.exception("nothing can be begun")
                await self.wake.wait(seen, pause)
        except asyncio.CancelledError:
            await self.interrupt()
            raise

    def checks(self) -> list[Check]:
        """For health: whether each remote gave what it was asked for last."""
        return [self.retries.check()]

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
        most = self.settings.build.parallel + MOST_WAITING
        while not self.stopping and self.slots.free and len(self.running) < most:
            if self.may_begin():
                return
            claimed = await self._claim()
            if claimed is None:
                return
            self.wake()
            slot = Slot(self.slots, claimed.repository)
            task = asyncio.create_task(
                self._work(claimed, slot), name=f"build {claimed.number}"
            )
            self.running[claimed.number] = Running(task)

    async def _claim(self) -> Claimed | None:
        """Take a slot that is free, and a build for it; without one the slot stays free."""
        await self.slots.take()
        claimed = None
        try:
            claimed = await self.database.write(
                queue.claim,
                instance=self.instance,
                at=now_ms(),
                context=self.context,
                besides=self.slots.abroad,
            )
        finally:
            if claimed is None:
                self.slots.give_back(quietly=True)
        return claimed

    async def _until_next_retry(self) -> float:
        poll = POLL_HELD_BACK if self.may_begin() else POLL
        due = await self.database.read(queue.next_retry_at, now_ms())
        return poll if due is None else min(poll, max(0.0, (due - now_ms()) / 1000))

    # One build, start to end

    async def _work(self, claimed: Claimed, slot: Slot) -> None:
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
        ended = None
        try:
            with LogWriter(path, self.settings.build.log_limit, self.hub) as writer:
                ended = await self._attempt(claimed, slot, writer, progress)
                writer.note(_last_line(ended))
        except HostFault as fault:
            # The log itself cannot be written: the disk, most likely. What is known
            # already stands without its last line.
            ended = ended or decide(fault, progress.targets)
        try:
            await _to_the_end(
                self._end_surely(claimed, progress, ended, time.monotonic() - begun)
            )
        finally:
            del self.running[claimed.number]
            slot.end()
            self.hub.finished(path)
            self.wake()
        await self._tidy(claimed)

    async def _attempt(
        self, claimed: Claimed, slot: Slot, writer: LogWriter, progress: Progress
    ) -> Ended:
        """How the attempt ended, also when it was told to."""
        tools = Tools(
            settings=self.settings,
            database=self.database,
            builders=self.builders,
            mirrors=self.mirrors,
            wake=self.wake,
            strain=self.strain,
            shortage=self.shortage,
            fetch_check=self.fetch_check,
        )
        attempt = Attempt(
            tools,
            claimed,
            slot,
            writer,
            progress,
            suspect=self.retries.is_down(claimed.repository),
            answered=self.retries.answered,
        )
        try:
            return await attempt.run()
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
        delay = await self.retries.after(claimed, ended, at)
        if delay is not None:
            return await self._put_back(claimed, progress, ended, seconds, delay)
        await self.database.write(
            record.finish, claimed, progress, ended, at, seconds, self.context
        )
        self.on_end(ended.state, seconds)
        log.info("build #%d %s: %s", claimed.number, ended.state, summary)

    async def _put_back(
        self,
        claimed: Claimed,
        progress: Progress,
        ended: Ended,
        seconds: float,
        delay: float,
    ) -> None:
        """To the queue, for another attempt after `delay` seconds."""
        at = now_ms()
        until = at + int(delay * 1000) if delay else 0
        if ended.retry is not None and ended.retry.remote:
            await self._spare_others(claimed, until, ended.summary)
        await self.database.write(
            record.requeue,
            claimed,
            progress,
            ended,
            not_before=until,
            at=at,
            seconds=seconds,
        )
        log.warning("build #%d goes back: %s", claimed.number, ended.summary)

    async def _spare_others(self, claimed: Claimed, until: int, reason: str) -> None:
        try:
            mirror = self.mirrors(claimed.repo)
            await self.retries.spare(mirror, claimed, until, reason)
        except BuildServerError as error:
            # They find out by themselves, each for its own.
            log.warning("the other builds of %s: %s", claimed.repo, error)

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
