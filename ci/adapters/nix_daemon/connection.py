"""One conversation with a Nix daemon: a request, its messages, its reply, in turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

from ci.adapters.nix_daemon.events import Activities, Event
from ci.adapters.nix_daemon.greeting import (
    HELLO,
    Greeting,
    Version,
    introduce,
    read_greeting,
    read_hello,
)
from ci.adapters.nix_daemon.messages import read_messages
from ci.adapters.nix_daemon.transport import READ_SIZE, Link
from ci.adapters.nix_daemon.wire import Inbox, Parse
from ci.adapters.telling import plain
from ci.errors import DaemonDown, DaemonLost, NetworkDown

T = TypeVar("T")

Drain = Callable[[], Awaitable[None]]

GREETING_WITHIN = 30.0
ANSWER_WITHIN = 600.0
"""Seconds; asking what is missing may wait for several caches that do not answer."""


class Connection:
    """Requests over one link; of no more use once a reply was not read to its end."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._inbox = Inbox()
        self._turn = asyncio.Lock()
        self._unfinished = ""

    async def greet(self, newest: Version) -> Greeting:
        """Introduce both sides. Raises DaemonDown, DaemonRefused, ProtocolError."""
        try:
            async with self._answering("greeting it", GREETING_WITHIN):
                self._link.outgoing.write(HELLO)
                version = await self._parse(read_hello(self._inbox, newest))
                self._link.outgoing.write(introduce(version))
                greeting = await self._parse(read_greeting(self._inbox, version))
                refusal = await self._parse(read_messages(self._inbox, _silent()))
        except DaemonLost as error:
            raise DaemonDown(str(error)) from error
        if refusal:
            raise refusal
        return greeting

    async def ask(
        self,
        what: str,
        request: bytes,
        reply: Callable[[Inbox], Parse[T]],
        *,
        activities: Activities | None = None,
        within: float | None = ANSWER_WITHIN,
        drain: Drain | None = None,
    ) -> T:
        """Send `request` and read its answer by `reply`; `what` is said in errors.

        Raises DaemonLost at the end of the stream or after `within` seconds,
        DaemonRefused or DiskFull when the answer is an error (and the connection lives
        on), ProtocolError when it cannot be understood.
        """
        async with self._answering(what, within):
            self._inbox.begin_reply()
            self._link.outgoing.write(request)
            messages = read_messages(self._inbox, activities or _silent())
            refusal = await self._parse(messages, drain)
            answer = None if refusal else await self._parse(reply(self._inbox))
        if refusal:
            raise refusal
        return cast(T, answer)

    @asynccontextmanager
    async def _answering(self, what: str, within: float | None) -> AsyncIterator[None]:
        async with self._turn:
            name = self._link.name
            if self._unfinished:
                raise DaemonLost(
                    f"the connection to {name} is of no more use: it was given up "
                    f"while {self._unfinished}"
                )
            self._unfinished = what
            deadline = asyncio.timeout(within)
            try:
                async with deadline:
                    yield
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise DaemonLost(
                    f"{name} did not answer within {within:g} s while {what}"
                ) from error
            self._unfinished = ""

    async def _parse(self, parser: Parse[T], drain: Drain | None = None) -> T:
        while True:
            try:
                next(parser)
            except StopIteration as end:
                return cast(T, end.value)
            if drain:
                await drain()
            self._inbox.feed(await self._receive())

    async def _receive(self) -> bytes:
        with suppress(ConnectionError):
            if data := await self._link.reader.read(READ_SIZE):
                return data
        why = plain(await self._link.epitaph())
        doing = f"{self._link.name} closed the connection while {self._unfinished}"
        # How Nix 2.8 dies of a cache that is out of reach.
        if "SubstituterDisabled" in why:
            raise NetworkDown(f"{doing}, for want of a cache: {why}")
        raise DaemonLost(f"{doing}: {why}")


def _silent() -> Activities:
    def ignore(event: Event) -> None:
        """Only builds have listeners."""

    return Activities(ignore)
