"""Following a log that still grows, or whose attempt is still to begin.

Whoever follows reads the file by offset, never a queue, so that nobody's slowness costs
anybody else. All who follow one attempt share a Watch: the rows are looked at once per
ring, however many they are. A follower rests after each piece: for a tick when it has
caught up, so that it costs one read and one write per tick however many lines come; and
the longer the more of them there are. A ring they answer one after the other. So a
thousand of them leave the loop to the build and to whoever else asks something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.adapters import logs as files
from ci.adapters.logs import LogHub
from ci.history import builds as history
from ci.history.database import Database
from ci.models import Build, BuildState
from ci.serve.stream import Chunks
from ci.wake import Wake

TICK = 0.1
# By all who follow one log, together: the more they are, the less often each is served.
READS_PER_SECOND = 1000
# A smaller piece than this means that the end of the log was reached.
FULL = 16 * 1024
LOOK_AGAIN = 5.0


@dataclass(frozen=True)
class Attempt:
    """One attempt of a build, and where its log is or will be."""

    build: int
    number: int
    path: Path


class Watch:
    """What the followers of one attempt share; `readers` are their tasks."""

    def __init__(
        self, attempt: Attempt, database: Database, wake: Wake, hub: LogHub
    ) -> None:
        self.attempt = attempt
        self.readers: set[asyncio.Task[Any] | None] = set()
        self.begun = asyncio.Event()
        self.over = False
        self._turn = 0
        self._database = database
        self._wake = wake
        self._hub = hub
        self.task = asyncio.create_task(self._look(), name=f"watch {attempt.path}")

    def rest(self, piece: int) -> float:
        """Seconds that a follower rests after a piece of so many bytes."""
        share = len(self.readers) / READS_PER_SECOND
        return share if piece >= FULL else max(TICK, share)

    def turn(self) -> float:
        """Seconds that the next follower waits after a ring: each has its own moment."""
        self._turn = (self._turn + 1) % max(1, len(self.readers))
        return self._turn / READS_PER_SECOND

    async def _look(self) -> None:
        """Look at the build at every ring until the attempt is over; then say so."""
        try:
            while not self.over:
                seen = self._wake.count
                build = await self._database.read(history.get, self.attempt.build)
                if build is None or _is_over(build, self.attempt.number):
                    return
                if build.attempt >= self.attempt.number:
                    self.begun.set()
                await self._wake.wait(seen, LOOK_AGAIN)
        finally:
            self.over = True
            self.begun.set()
            self._hub.ring(self.attempt.path)


class _InTurn(LogHub):
    """The hub as the followers of one attempt hear it: one after the other."""

    def __init__(self, hub: LogHub, watch: Watch) -> None:
        super().__init__()
        self._hub = hub
        self._watch = watch

    async def changed(self, path: Path) -> None:
        await self._hub.changed(path)
        await asyncio.sleep(self._watch.turn())


class Watches:
    """The attempts that are followed now."""

    def __init__(self, database: Database, wake: Wake, hub: LogHub) -> None:
        self._database = database
        self._wake = wake
        self._hub = hub
        self._watches: dict[Attempt, Watch] = {}

    async def follow(self, attempt: Attempt, start: int) -> Chunks:
        """The log's bytes from `start` on, until the attempt has ended."""
        async with self._watching(attempt) as watch:
            await watch.begun.wait()
            chunks = files.follow(
                attempt.path,
                start,
                hub=_InTurn(self._hub, watch),
                finished=lambda: watch.over,
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
                    await asyncio.sleep(watch.rest(len(chunk)))
            await watch.task

    @property
    def readers(self) -> int:
        """How many follow a log now."""
        return sum(len(watch.readers) for watch in self._watches.values())

    def stop(self) -> None:
        """Cut off everybody: what they have read then lacks its end mark."""
        for watch in self._watches.values():
            for reader in watch.readers:
                if reader is not None:
                    reader.cancel()

    @asynccontextmanager
    async def _watching(self, attempt: Attempt) -> AsyncIterator[Watch]:
        watch = self._watches.get(attempt)
        if watch is None:
            watch = Watch(attempt, self._database, self._wake, self._hub)
            self._watches[attempt] = watch
        reader = asyncio.current_task()
        watch.readers.add(reader)
        try:
            yield watch
        finally:
            watch.readers.discard(reader)
            if not watch.readers:
                del self._watches[attempt]
                watch.task.cancel()


def _is_over(build: Build, attempt: int) -> bool:
    if build.attempt == attempt:
        return build.state is not BuildState.RUNNING
    return build.attempt > attempt or build.state.final
