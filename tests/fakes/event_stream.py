"""Reading server-sent events as a browser does."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True)
class Told:
    """One event; `data` is the JSON of it."""

    name: str
    data: Any
    id: str

    @property
    def change(self) -> tuple[str, int, str]:
        """The essence of a `build` event: kind, number, state."""
        return self.data["kind"], self.data["number"], self.data["state"]


class EventStream:
    """An open stream; lines end as the HTML standard says, so that forgery would show."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.retry = 0
        # The server's signs of life: what comes every few seconds is no news.
        self.beats: list[Told] = []
        self.last = ""
        self._rest = ""
        self._name = ""
        self._data: list[str] = []

    async def next(self, timeout: float = 60) -> Told:  # noqa: ASYNC109
        """The next event but `beat`; EOFError when the server has closed."""
        async with asyncio.timeout(timeout):
            while (told := self._step()) is None or told.name == "beat":
                if told is not None:
                    self.beats.append(told)
                    continue
                piece = await self.response.content.readany()
                if not piece:
                    raise EOFError
                self._rest += piece.decode()
        return told

    async def until(self, name: str, **facts: object) -> list[Told]:
        """Everything up to the first event of that name with these facts."""
        found = []
        while True:
            told = await self.next()
            found.append(told)
            if told.name == name and facts.items() <= told.data.items():
                return found

    async def to_the_end(self) -> list[Told]:
        """Everything until the server closes."""
        found = []
        while True:
            try:
                found.append(await self.next())
            except EOFError:
                return found

    def _step(self) -> Told | None:
        """Take whole lines; a CR at the very end may be half of a line end."""
        while end := LINE_END.search(self._rest, 0, len(self._rest)):
            if end[0] == "\r" and end.end() == len(self._rest):
                return None
            line, self._rest = self._rest[: end.start()], self._rest[end.end() :]
            if told := self._take(line):
                return told
        return None

    def _take(self, line: str) -> Told | None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if line == "":
            name, data = self._name, self._data
            self._name, self._data = "", []
            return Told(name, json.loads("\n".join(data)), self.last) if data else None
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self.last = value
        elif field == "retry":
            self.retry = int(value)
        return None


@asynccontextmanager
async def listening(
    session: aiohttp.ClientSession, url: str, last: str = ""
) -> AsyncIterator[EventStream]:
    """A page that is open; it has been greeted."""
    headers = {"Last-Event-ID": last} if last else {}
    async with session.get(
        url, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
    ) as response:
        assert response.status == 200, await response.text()
        stream = EventStream(response)
        hello = await stream.next()
        assert hello.name == "hello", hello
        yield stream
