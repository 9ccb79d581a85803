"""One open page: what it was told last, and how it is told more.

Each event carries the id of the last change of a build that it knows of; on a stream with
a log `CHANGE-ATTEMPT-OFFSET`. Who comes back with it, to this server or to one that was
started since, is told what was missed, or `reset` when that is not known any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import lru_cache

from aiohttp_sse import EventSourceResponse

from ci.adapters.host import now_ms
from ci.history import builds, events as history
from ci.history.events import Event
from ci.models import Build, BuildState
from ci.serve.news import BATCH, Listener, Note, note, of_build
from ci.serve.pages.log import log_events
from ci.serve.service import Service

# Milliseconds after which a browser comes back.
RETRY = 3000
ID = re.compile(r"([0-9]{1,16})(?:-([0-9]{1,16})-([0-9]{1,16}))?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where in a log a page is: `offset` is the byte after what it has."""

    attempt: int
    offset: int
    target: str | None


@dataclass(frozen=True)
class Topic:
    """What a page is about; None: everything. `place`: it shows a log, too."""

    build: Build | None = None
    repo: str | None = None
    checks: bool = False
    place: Place | None = None

    def wants(self, event: Event) -> bool:
        """Whether the page shows what has changed."""
        return self.repo in (None, event.repo) and (
            self.build is None or self.build.number == event.build
        )


@dataclass(frozen=True)
class Given:
    """The id that a page comes back with, of whatever kind."""

    change: int
    attempt: int | None
    offset: int | None

    @classmethod
    def parse(cls, text: str) -> Given | None:
        """None for what no server of ours has given."""
        found = ID.fullmatch(text)
        if found is None:
            return None
        change, attempt, offset = found.groups()
        return cls(
            int(change),
            int(attempt) if attempt else None,
            int(offset) if offset else None,
        )


class Stream:
    """The events of one page; each write has `patience` seconds, else TimeoutError."""

    def __init__(
        self, service: Service, topic: Topic, response: EventSourceResponse
    ) -> None:
        self._service = service
        self._topic = topic
        self._response = response
        self._last = 0
        self._state = topic.build.state if topic.build else None
        self._place = topic.place
        self._reading: asyncio.Task[None] | None = None
        self._ended = False

    async def run(self, listener: Listener, after: int | None, *, lost: bool) -> None:
        """Say where things stand, what came behind event `after`, and then what comes.

        `after` None: from now on. `lost`: it has missed what is not known any more.
        """
        newest = await self._service.database.read(history.newest)
        self._last = newest if after is None else after
        await self._hello()
        if lost:
            await self._say("reset")
        try:
            await self._go_on(listener)
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.wait([self._reading])

    async def _go_on(self, listener: Listener) -> None:
        if self._topic.build is not None:
            # It may have changed while the stream was opened.
            build = await self._now(self._topic.build)
            self._state = build.state
            self._read(listener, build)
        await self._replay(listener)
        over = self._state is not None and self._state.final
        if over and self._reading is None and not self._ended:
            await self._end()
        while not (told := await listener.next()).last:
            await self._tell(told, listener)
        if told.name == "bye":
            await self._say("bye")

    async def _hello(self) -> None:
        facts = {
            "version": self._service.version,
            "now": now_ms(),
            "boot": self._service.news.boot,
        }
        await self._say("hello", json.dumps(facts), retry=RETRY)

    async def _replay(self, listener: Listener) -> None:
        """Everything that was written since; the listener's queue may have it again."""
        while True:
            found = await self._service.database.read(history.since, self._last, BATCH)
            for event in found:
                if self._topic.wants(event):
                    await self._tell(of_build(event), listener)
                self._last = event.id
            if len(found) < BATCH:
                return

    async def _tell(self, told: Note, listener: Listener) -> None:
        event = told.event
        if event is not None and event.id <= self._last:
            return
        if told.name == "queue" and self._state not in (None, BuildState.QUEUED):
            return
        self._last = max(self._last, told.id)
        await self._say(told.name, told.data)
        if event is not None and self._topic.build is not None:
            await self._changed(event, self._topic.build, listener)

    async def _changed(self, event: Event, build: Build, listener: Listener) -> None:
        """The build of this page is in another state: its log begins, or all ends."""
        self._state = event.state
        self._ended = self._ended and event.state.final
        if event.kind != "state" or self._reading is not None:
            return
        if event.state.final:
            await self._end()
        elif self._place is not None:
            self._read(listener, await self._now(build))

    async def _now(self, build: Build) -> Build:
        """The build as it is now, or was when it was removed."""
        return await self._service.database.read(builds.get, build.number) or build

    async def _end(self) -> None:
        self._ended = True
        await self._say("end", json.dumps({"state": self._state}))

    def _read(self, listener: Listener, build: Build) -> None:
        """Begin to tell the log, when the page wants it and its attempt has begun."""
        place = self._place
        if place is not None and place.attempt <= build.attempt:
            self._reading = asyncio.create_task(
                self._read_log(listener, build, place),
                name=f"log of build {build.number}",
            )

    async def _read_log(self, listener: Listener, build: Build, place: Place) -> None:
        """Tell the log to its end, besides the news; what breaks it cuts the stream."""
        try:
            await self._tell_log(build, place)
        except (TimeoutError, OSError) as error:
            log.info("build %d: a reader is cut off: %r", build.number, error)
            listener.put(note("cut", self._last))
        except Exception:
            log.exception("build %d: its log cannot be told", build.number)
            listener.put(note("cut", self._last))

    async def _tell_log(self, build: Build, place: Place) -> None:
        pieces = log_events(
            self._service, build, place.attempt, place.offset, place.target
        )
        async with aclosing(pieces):
            async for piece in pieces:
                self._place = replace(place, offset=piece.offset)
                facts = {
                    "attempt": place.attempt,
                    "first": piece.first,
                    "offset": piece.offset,
                    "html": piece.html,
                }
                await self._say("log", json.dumps(facts))
        self._state = (await self._now(build)).state
        await self._end()

    async def _say(
        self, name: str, data: str = "{}", *, retry: int | None = None
    ) -> None:
        place = self._place
        if place:
            at = f"{self._last}-{place.attempt}-{place.offset}"
            frame = _frame(name, data, at, retry)
        else:
            frame = _same_for_all(name, data, str(self._last), retry)
        async with asyncio.timeout(self._service.news.patience):
            await self._response.write(frame)


def _frame(name: str, data: str, at: str, retry: int | None) -> bytes:
    """One event as it is sent; `data` is JSON, so that it has no line break."""
    again = "" if retry is None else f"retry: {retry}\n"
    return f"id: {at}\nevent: {name}\ndata: {data}\n{again}\n".encode()


# A thousand pages hear the same within a moment: it is put together once.
_same_for_all = lru_cache(maxsize=64)(_frame)
