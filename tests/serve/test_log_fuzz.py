"""From a builder to whoever reads: the same bytes, wherever a connection was cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings, strategies as st

from ci.adapters.logs import END_KEPT, LogWriter
from ci.models import BuildState
from tests.serve.conftest import Private, Served

LIMIT = 1 << 30
NOTE = b"build-server: failed: checks.web\n"
MARK = b"build-server: log cut here at "

RUNS = st.builds(
    lambda letter, size: letter * size,
    st.sampled_from([b"\n", b"x", b"line\n", b"\r\n", b"\0\xff", b"\x1b[31m\xe2\x82"]),
    st.integers(1, 30_000),
)
pieces = st.lists(st.binary(max_size=200) | RUNS, max_size=8)
# How many bytes each reader takes before its connection is cut; at last it reads on.
cuts = st.lists(st.lists(st.integers(0, 90_000), max_size=3), min_size=1, max_size=3)

numbers = itertools.count(1)


async def patient(client: Private, build: int, breaks: Sequence[int]) -> bytes:
    """Follow to the end, going on where each connection was cut."""
    received = b""
    for most in [*breaks, LIMIT]:
        address = f"/builds/{build}/log?follow=1&offset={len(received)}"
        async with client.get(address) as response:
            assert response.status == 200, await response.text()
            assert int(response.headers["X-Log-Offset"]) == len(received)
            wanted = most
            while wanted and (part := await response.content.read(min(wanted, 65536))):
                received += part
                wanted -= len(part)
            if wanted:
                return received
    return received


async def read(client: Private, address: str) -> bytes:
    async with client.get(address) as response:
        assert response.status == 200, await response.text()
        return await response.read()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
    ],
)
@given(
    pieces=pieces,
    cuts=cuts,
    limit=st.just(LIMIT) | st.integers(1, 60_000),
    offsets=st.lists(st.integers(0, 250_000), min_size=1, max_size=3),
    lines=st.integers(1, 60),
)
async def test_every_way_to_read_a_log_gives_the_bytes_that_were_written(
    served: Served,
    client: Private,
    pieces: list[bytes],
    cuts: list[list[int]],
    limit: int,
    offsets: list[int],
    lines: int,
) -> None:
    build = await served.add(next(numbers), BuildState.RUNNING, log=b"")
    readers = [asyncio.create_task(patient(client, build, breaks)) for breaks in cuts]
    path = served.log_path(build)
    with LogWriter(path, limit, served.hub) as writer:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        writer.note("failed: checks.web")
    await served.finish(build)
    async with asyncio.timeout(30):
        followed = [await reader for reader in readers]

    written = await asyncio.to_thread(path.read_bytes)
    whole = b"".join(pieces)
    assert written.startswith(whole[:limit])
    assert (MARK in written[len(whole[:limit]) :]) == (len(whole) > limit)
    rest = whole[limit:]
    ending = rest[len(rest) - min(END_KEPT, limit // 8, len(rest)) :]
    assert (
        written.removesuffix(NOTE)
        .removesuffix(b"\n")
        .endswith(ending.removesuffix(b"\n"))
    )
    if len(whole) <= limit:
        assert written in (whole + NOTE, whole + b"\n" + NOTE)

    assert followed == [written] * len(readers)
    log = f"/builds/{build}/log"
    assert await read(client, log) == written
    for offset in offsets:
        start = min(offset, len(written))
        assert await read(client, f"{log}?offset={start}") == written[start:]
        assert await read(client, f"{log}?tail={offset + 1}") == written[-offset - 1 :]
    async with client.get(f"/build/logs?build={build}&lines={lines}") as response:
        shown = (await response.json())["logs"]
    every = written.removesuffix(b"\n").split(b"\n")
    assert shown == [line.decode(errors="replace") for line in every[-lines:]]
