"""Floods of bad signatures take nothing from whoever has the secret."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import cast

import pytest
from aiohttp import web
from hypothesis import given, strategies as st

from ci.config import Settings
from ci.errors import RequestError
from ci.history.database import Database
from ci.intake.body import MAX_BODY, MIB, BodyReader
from ci.intake.strangers import Lanes
from tests.fakes.push import encode, headers, make_push, sign
from tests.intake.edge import Edge, running_edge

GITHUB = "140.82.115.1"
FLOOD = 2000
AT_ONCE = 100
# As long as no machine stands still.
BODY_SECONDS = 40.0
BODY = encode(make_push(2))
BAD = sign(BODY, b"another-secret-of-32-characters!")


def delivery(body: bytes, source: str, signature: str = "") -> tuple[bytes, bytes]:
    """Head and body of a delivery as Funnel passes it on."""
    fields = headers(body) | {"X-Forwarded-For": source, "Connection": "close"}
    if signature:
        fields["X-Hub-Signature-256"] = signature
    lines = [f"{name}: {value}" for name, value in fields.items()]
    length = f"Content-Length: {len(body)}"
    head = ["POST /webhook HTTP/1.1", "Host: build-server", length, *lines, "", ""]
    return "\r\n".join(head).encode(), body


async def deliver(edge: Edge, source: str, number: int) -> tuple[int, float]:
    """One good push, its body behind its head; returns (status, seconds)."""
    head, body = delivery(encode(make_push(1, label=f"good {number}")), source)
    begun = time.monotonic()
    reader, writer = await edge.connect()
    try:
        writer.write(head)
        await writer.drain()
        await asyncio.sleep(0)
        for start in range(0, len(body), 1500):
            writer.write(body[start : start + 1500])
            await writer.drain()
        answer = await reader.read()
    except ConnectionError:
        answer = b"HTTP/1.1 000 "
    finally:
        writer.close()
    return int(answer.split()[1]), time.monotonic() - begun


async def flood(edge: Edge, source: Callable[[int], str], stack: AsyncExitStack) -> int:
    """Send FLOOD bad deliveries, two of three with half a body; count the 401s."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> bool:
        async with room:
            head, body = delivery(BODY, source(number), BAD)
            reader, writer = await edge.connect()
            stack.callback(writer.close)
            if number % 3:
                # Held for as long as the server lets it.
                writer.write(head + body[: -number % 1000 - 1])
                await writer.drain()
                return False
            writer.write(head + body)
            try:
                return b" 401 " in await reader.readuntil(b"\r\n")
            except (ConnectionError, asyncio.IncompleteReadError):
                return False

    return sum(await asyncio.gather(*(one(number) for number in range(FLOOD))))


def as_github(number: int) -> str:
    """Deliveries that GitHub's own machines make for somebody else, or pretended ones."""
    return GITHUB


def from_everywhere(number: int) -> str:
    return f"10.0.{number >> 8}.{number & 255}"


@pytest.mark.parametrize(
    ("source", "known"),
    [
        pytest.param(as_github, False, id="GitHub's address"),
        pytest.param(from_everywhere, True, id="many addresses, GitHub known"),
    ],
)
async def test_no_flood_keeps_a_good_delivery_out(
    database: Database,
    settings: Settings,
    source: Callable[[int], str],
    known: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    numbers = count()
    # The usual lanes, with time enough.
    lanes = Lanes(
        BodyReader(seconds=BODY_SECONDS),
        BodyReader(seconds=BODY_SECONDS, memory=MAX_BODY + 8 * MIB, given_up=429),
    )
    async with running_edge(database, settings, lanes=lanes) as edge:
        if known:
            assert (await deliver(edge, GITHUB, next(numbers)))[0] == 202
        begun = time.monotonic()
        async with AsyncExitStack() as stack:
            flooding = asyncio.create_task(flood(edge, source, stack))
            told: list[tuple[int, float]] = []
            worked: list[float] = []
            while not flooding.done() or len(told) < 5:
                before = time.process_time()
                told.append(await deliver(edge, GITHUB, next(numbers)))
                worked.append(time.process_time() - before)
                await asyncio.wait([flooding], timeout=0.02)
            assert {status for status, _ in told} == {202}
            # Neither behind two seconds of work for others, however fast this machine
            # is, nor behind the time that a body may take.
            assert max(worked) < 2
            assert max(seconds for _, seconds in told) < BODY_SECONDS
            assert await flooding > FLOOD // 4
        assert len(await edge.rows()) == next(numbers)
        assert len(edge.unsigned) >= FLOOD // 4
        lines = [line for line in caplog.records if line.name.endswith("refused")]
        assert 1 <= len(lines) <= time.monotonic() - begun + 2


async def test_strangers_have_less_room_and_are_told_so(
    database: Database, settings: Settings
) -> None:
    lanes = Lanes(
        BodyReader(seconds=30, readers=8),
        BodyReader(seconds=30, readers=2, given_up=429),
    )
    async with (
        running_edge(database, settings, lanes=lanes, lingering_time=0) as edge,
        AsyncExitStack() as stack,
    ):
        assert (await deliver(edge, GITHUB, 0))[0] == 202

        async def half(source: str) -> asyncio.StreamReader:
            head, body = delivery(BODY, source, BAD)
            reader, writer = await edge.connect()
            stack.callback(writer.close)
            writer.write(head + body[:-1])
            return reader

        known = [await half(GITHUB) for _ in range(8)]
        strangers = [await half(f"10.0.0.{number}") for number in range(5)]
        for reader in strangers[:3]:
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert json.loads(body)["status"] == 429
        assert [reader.at_eof() for reader in strangers[3:]] == [False] * 2
        # Whoever is known loses nothing to strangers, and the other way round.
        assert [reader.at_eof() for reader in known] == [False] * 8
        await half(GITHUB)
        assert (await known[0].read()).startswith(b"HTTP/1.1 408 ")
        assert [reader.at_eof() for reader in known[1:]] == [False] * 7
        assert (await deliver(edge, "10.0.0.9", 1))[0] == 202


async def test_only_the_last_sources_are_remembered(
    database: Database, settings: Settings
) -> None:
    strangers = BodyReader(limit=1, given_up=429)
    lanes = Lanes(BodyReader(), strangers, remembered=2)
    async with running_edge(database, settings, lanes=lanes) as edge:
        numbers = count()

        async def whole(source: str) -> int:
            """A delivery small enough to come with its head: no lane minds it."""
            strangers.limit = 10**6
            status, _ = await deliver(edge, source, next(numbers))
            strangers.limit = 1
            return status

        for source in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "evil, 10.0.0.3"):
            assert await whole(source) == 202
        told = {
            source: (await deliver(edge, source, next(numbers)))[0]
            for source in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3, 10.0.0.2")
        }
    assert told == {
        "10.0.0.1": 202,
        "10.0.0.2": 413,
        "10.0.0.3": 202,
        "10.0.0.3, 10.0.0.2": 413,
    }


class Sender:
    """A body as aiohttp gives it to its reader, piece by piece."""

    content_length = None

    def __init__(self, reader: BodyReader) -> None:
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        # It is its own request and its own content.
        self.content = self
        self.spoke = 0
        self.read = asyncio.ensure_future(reader.read(cast(web.Request, self)))

    def is_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        return await self._pieces.get()

    def send(self, now: int, size: int) -> None:
        self.spoke = now
        self._pieces.put_nowait(bytes(size))


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500)), max_size=100),
    st.integers(1, 8),
)
def test_who_keeps_sending_is_never_given_up_for_who_does_not(
    steps: list[tuple[int, int]], readers: int
) -> None:
    """Those given up have all been silent longer than those that stay."""

    async def play() -> None:
        reader = BodyReader(seconds=600, readers=readers, memory=2000)
        senders: dict[int, Sender] = {}
        for now, (name, size) in enumerate(steps):
            if name not in senders:
                senders[name] = Sender(reader)
                await _settle()
            senders[name].send(now, size)
            await _settle()
            gone = {name: one for name, one in senders.items() if one.read.done()}
            for name, one in gone.items():
                error = one.read.exception()
                assert isinstance(error, RequestError)
                assert error.status == 408
                del senders[name]
            last = max((one.spoke for one in gone.values()), default=-1)
            assert all(last <= one.spoke for one in senders.values())
            assert len(senders) <= readers
        for one in senders.values():
            one.read.cancel()
        await asyncio.gather(
            *(s.read for s in senders.values()), return_exceptions=True
        )

    asyncio.run(play())


async def _settle() -> None:
    """Let every reader take what there is, and those given up notice it."""
    for _ in range(6):
        await asyncio.sleep(0)
