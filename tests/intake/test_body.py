"""Senders who dawdle, lie or hang up; all over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import islice

import pytest

from ci.config import Settings
from ci.history.database import Database
from ci.intake.body import MAX_BODY, BodyReader
from tests.fakes.push import encode, headers, make_commit, make_push, sha, sign
from tests.fakes.waiting import wait_until
from tests.intake.edge import Edge, running_edge

BODY = encode(make_push(2))


def request_bytes(body: bytes, **changed: str | None) -> bytes:
    """A delivery as it goes over the wire; a header set to None is left out."""
    sent: dict[str, str | None] = {
        "Host": "build-server",
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers(body),
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    lines = [f"{name}: {value}" for name, value in sent.items() if value is not None]
    return "\r\n".join(["POST /webhook HTTP/1.1", *lines, "\r\n"]).encode() + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def error_of(answer: bytes) -> str:
    shape = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert shape["status"] == status_of(answer)
    return str(shape["error"])


async def send_for_ever(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()


@pytest.fixture
async def hasty(database: Database, settings: Settings) -> AsyncIterator[Edge]:
    """An edge with small limits: 64 KiB, 0.3 s, 8 readers, 256 KiB of memory."""
    reader = BodyReader(limit=65536, seconds=0.3, readers=8, memory=262144)
    async with running_edge(database, settings, reader, lingering_time=0.1) as edge:
        yield edge


@pytest.fixture
async def small(database: Database, settings: Settings) -> AsyncIterator[Edge]:
    """The same, with time enough for whoever does not stop."""
    reader = BodyReader(limit=65536, seconds=30, readers=8, memory=262144)
    async with running_edge(database, settings, reader, lingering_time=0.1) as edge:
        yield edge


async def test_a_body_that_stops_half_way_is_not_waited_for(hasty: Edge) -> None:
    begun = time.monotonic()
    answer = await hasty.raw(request_bytes(BODY)[:-10])
    assert status_of(answer) == 408
    assert "in time" in error_of(answer)
    # Nor for as long as a BodyReader that was told nothing would have.
    assert time.monotonic() - begun < 8
    assert await hasty.rows() == []


async def test_a_body_that_trickles_in_is_cut_off_too(hasty: Edge) -> None:
    reader, writer = await hasty.connect()
    whole = request_bytes(BODY)
    writer.write(whole[:-100])
    answer = asyncio.create_task(reader.readuntil(b"}\n"))
    for byte in whole[-100:]:
        writer.write(bytes([byte]))
        done, _ = await asyncio.wait([answer], timeout=0.05)
        if done:
            break
    assert status_of(await answer) == 408
    writer.close()


async def test_a_body_in_pieces_is_whole_when_it_is_in_time(small: Edge) -> None:
    reader, writer = await small.connect()
    whole = request_bytes(BODY)
    for start in range(0, len(whole), 500):
        writer.write(whole[start : start + 500])
        await asyncio.sleep(0)
    assert status_of(await reader.read()) == 202
    writer.close()


async def test_a_lying_or_honest_length_over_the_limit_is_refused_early(
    small: Edge,
) -> None:
    answer = await small.raw(request_bytes(b"x", Content_Length="65537"))
    assert status_of(answer) == 413
    assert "65536" in error_of(answer)
    exactly = b" " * 65536
    assert status_of(await small.raw(request_bytes(exactly))) == 400


async def test_an_endless_chunked_body_is_cut_at_the_limit(small: Edge) -> None:
    reader, writer = await small.connect()
    writer.write(request_bytes(b"", Content_Length=None, Transfer_Encoding="chunked"))
    answer = asyncio.create_task(reader.readuntil(b"}\n"))
    with pytest.raises(ConnectionError):
        await send_for_ever(writer, b"1000\r\n" + b" " * 0x1000 + b"\r\n")
    assert status_of(await answer) == 413
    writer.close()


async def test_a_body_that_breaks_off_leaves_nothing(small: Edge) -> None:
    _, writer = await small.connect()
    writer.write(request_bytes(BODY)[:-10])
    await writer.drain()
    writer.transport.abort()
    garbled = request_bytes(b"zz\r\n", Content_Length=None, Transfer_Encoding="chunked")
    assert status_of(await small.raw(garbled)) == 400
    assert status_of(await small.raw(request_bytes(BODY))) == 202
    assert len(await small.rows()) == 1


async def test_a_sender_who_hangs_up_before_the_answer_is_still_recorded(
    small: Edge,
) -> None:
    await small.raw(request_bytes(BODY), half_close=True)
    rows = await wait_until(small.rows, what="the delivery")
    assert len(rows) == 1
    assert len(await small.rows("builds")) == 2


@pytest.mark.parametrize(
    ("limits", "patient"),
    [({"readers": 8}, 8), ({"memory": 4 * len(BODY)}, 4)],
    ids=["readers", "memory"],
)
async def test_dawdlers_are_given_up_for_newcomers(
    database: Database, settings: Settings, limits: dict[str, int], patient: int
) -> None:
    half = request_bytes(BODY + b" " * 1000)[:-1000]
    reader = BodyReader(seconds=30, **limits)
    async with (
        running_edge(database, settings, reader, lingering_time=0) as edge,
        AsyncExitStack() as stack,
    ):
        answers = []
        for _ in range(40):
            reply, writer = await edge.connect()
            stack.callback(writer.close)
            writer.write(half)
            answers.append(asyncio.create_task(reply.read()))
        for given_up in islice(asyncio.as_completed(answers), 40 - patient):
            assert status_of(await given_up) == 408
        assert status_of(await edge.raw(request_bytes(BODY))) == 202
        assert [answer.done() for answer in answers].count(False) == patient
        for answer in answers:
            answer.cancel()


async def test_a_bomb_stays_as_small_as_it_came(small: Edge) -> None:
    bomb = gzip.compress(b"[" * 20_000_000)
    assert len(bomb) < 65536
    signed = await small.raw(request_bytes(bomb, Content_Encoding="gzip"))
    assert status_of(signed) == 415
    unsigned = request_bytes(
        bomb, Content_Encoding="gzip", X_Hub_Signature_256=sign(b"other")
    )
    assert status_of(await small.raw(unsigned)) == 401


async def test_the_largest_push_that_github_sends(edge: Edge) -> None:
    commits = [
        make_commit(sha(n)) | {"added": [f"directory/file-{n}-{m}" for m in range(400)]}
        for n in range(2048)
    ]
    body = encode(make_push(commits))
    assert 15_000_000 < len(body) < MAX_BODY
    status, answer = await edge.post(body, headers(body))
    assert status == 202
    assert len(answer["builds"]) == 100
    assert len(await edge.rows("builds")) == 2048
    too_large = body + b" " * (MAX_BODY - len(body) + 1)
    status, _ = await edge.post(too_large, headers(too_large))
    assert status == 413


@pytest.mark.parametrize(
    "head",
    [
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS",
    ],
    ids=["two hosts", "two lengths", "long header", "TLS"],
)
async def test_broken_http_is_refused_with_little_to_log(
    edge: Edge, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    begun = time.monotonic()
    for _ in range(5):
        assert status_of(await edge.raw(head)) == 400
    lines = [one for one in caplog.records if one.name.endswith("broken")]
    assert len(lines) <= time.monotonic() - begun + 1, "at most one a second"
    assert await edge.rows() == []
    assert "Traceback" not in caplog.text
