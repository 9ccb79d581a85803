"""News for open pages: read once, handed to everybody who listens.

One task reads the new rows, once per ring and only while somebody listens, and puts them
into the listeners' queues; it never waits for any of them. Whose queue is full has lost
his place: it is emptied, and he is told to look at everything anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ci.adapters.host import now_ms
from ci.errors import RequestError
from ci.history import events as history
from ci.history.database import Database
from ci.history.events import Event
from ci.models import Check
from ci.wake import Wake

QUEUE = 64
STREAMS = 2000
BATCH = 200
# Rows carry the news, not rings: progress is written without one.
LOOK_AGAIN = 1.0
CHECK_EVERY = 5.0
PATIENCE = 10.0
BEAT_EVERY = 15.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Note:
    """One thing to tell: `data` is JSON, `id` the last event when it was written."""

    name: str
    data: str
    id: int
    event: Event | None = None

    @property
    def last(self) -> bool:
        """Whether nothing follows it."""
        return self.name in ("bye", "cut")


def note(name: str, at: int, event: Event | None = None, **facts: object) -> Note:
    """A note whose data are `facts`."""
    return Note(name, json.dumps(facts), at, event)


def of_build(event: Event) -> Note:
    """What a page is told of one event."""
    return note(
        "build",
        event.id,
        event,
        number=event.build,
        repo=event.repo,
        state=event.state,
        kind=event.kind,
    )


class Listener:
    """Who listens; a queue between the one who reads and a reader who may be slow."""

    def __init__(self, wants: Callable[[Event], bool], *, checks: bool) -> None:
        self.wants = wants
        self.checks = checks
        self._queue: asyncio.Queue[Note] = asyncio.Queue(QUEUE)

    def put(self, told: Note) -> None:
        """Keep it for the listener; a queue that is full becomes one `reset`."""
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            told = told if told.last else note("reset", told.id)
        self._queue.put_nowait(told)

    async def next(self) -> Note:
        """Wait for what comes next."""
        return await self._queue.get()


class News:
    """The listeners of one server. `boot` is when it began, in milliseconds.

    `patience` is how many seconds a reader may take over one piece, `check_every` how
    many are between two looks at the checks.
    """

    def __init__(
        self,
        database: Database,
        wake: Wake,
        checks: Callable[[], Awaitable[list[Check]]],
    ) -> None:
        self.boot = now_ms()
        self.patience = PATIENCE
        self.check_every = CHECK_EVERY
        self.beat_every = BEAT_EVERY
        # The last event that the listeners were told of.
        self.position = 0
        self.listeners: set[Listener] = set()
        self._database = database
        self._wake = wake
        self._checks = checks
        self._queued: int | None = None
        self._reading = _Task(self._read, self._cut)
        self._checking = _Task(self._check, self._cut)
        self._begun = asyncio.Event()
        self._over = False

    @asynccontextmanager
    async def listen(
        self, wants: Callable[[Event], bool], *, checks: bool = False
    ) -> AsyncIterator[Listener]:
        """Hear of events that `wants` takes, of the queue, and of the `checks`.

        Everything behind `position` comes, and perhaps a little from before it. Raises
        RequestError 503 when too many listen, or the server stops.
        """
        if self._over:
            raise RequestError(503, "the server is about to stop; come back soon")
        if len(self.listeners) >= STREAMS:
            raise RequestError(
                503, f"{STREAMS} pages listen already, as many as may; close one"
            )
        listener = Listener(wants, checks=checks)
        self.listeners.add(listener)
        try:
            if self._reading.start():
                self._begun.clear()
            if checks:
                self._checking.start()
            await self._begun.wait()
            if not self._reading.runs:
                raise RequestError(
                    503, "the history cannot be read now; come back soon"
                )
            yield listener
        finally:
            self.listeners.discard(listener)
            if not self.listeners:
                self._reading.stop()
            if not any(other.checks for other in self.listeners):
                self._checking.stop()

    def stop(self) -> None:
        """Tell everybody that the server stops; nobody can listen from now on."""
        self._over = True
        for listener in self.listeners:
            listener.put(note("bye", self.position))

    async def _read(self) -> None:
        self.position = await self._database.read(history.newest)
        self._queued = None
        self._begun.set()
        beaten = time.monotonic()
        while True:
            seen = self._wake.count
            found = await self._database.read(history.look, self.position, BATCH)
            self._tell(found)
            if time.monotonic() - beaten >= self.beat_every:
                beaten = time.monotonic()
                self._tell_all(note("beat", self.position))
            if len(found.events) < BATCH:
                await self._wake.wait(seen, min(LOOK_AGAIN, self.beat_every))

    def _tell(self, found: history.Look) -> None:
        if found.events and found.events[0].id != self.position + 1:
            self._tell_all(note("reset", found.events[-1].id))
        for event in found.events:
            self.position = event.id
            told = of_build(event)
            for listener in self.listeners:
                if listener.wants(event):
                    listener.put(told)
        if self._queued not in (None, found.queued):
            self._tell_all(note("queue", self.position, length=found.queued))
        self._queued = found.queued

    async def _check(self) -> None:
        """Look at the checks again and again; tell the names of those that changed."""
        before: set[tuple[str, bool, str]] | None = None
        while True:
            found = {(it.name, it.ok, it.detail) for it in await self._checks()}
            if before is not None and found != before:
                names = sorted({name for name, _, _ in found ^ before})
                told = note("setup", self.position, checks=names)
                for listener in self.listeners:
                    if listener.checks:
                        listener.put(told)
            before = found
            await asyncio.sleep(self.check_every)

    def _tell_all(self, told: Note) -> None:
        for listener in self.listeners:
            listener.put(told)

    def _cut(self) -> None:
        """The rows cannot be read now: who listens shall come back and be told so."""
        self._begun.set()
        self._tell_all(note("cut", self.position))


class _Task:
    """A loop that runs while it is needed; `failed` is called when it breaks."""

    def __init__(
        self, loop: Callable[[], Awaitable[None]], failed: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._failed = failed
        self._task: asyncio.Task[None] | None = None
        self._broken = False

    @property
    def runs(self) -> bool:
        return self._task is not None and not self._broken

    def start(self) -> bool:
        """Whether it had to be started."""
        if self.runs:
            return False
        self._broken = False
        self._task = asyncio.create_task(self._run(), name="news")
        return True

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        try:
            await self._loop()
        except Exception:
            log.exception("the news stopped; open pages come back by themselves")
            self._broken = True
            self._failed()
