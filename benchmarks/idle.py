"""idle: memory after the start and later, time to the first accepted push, wake-ups.

Beside aiohttp that answers 202 and nothing else. The server is configured to build flakes
and has nothing to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import aiohttp

from benchmarks.contenders import Accepting, bare
from benchmarks.machine import Memory, cpu_seconds, memory, sleeps
from benchmarks.options import Options
from benchmarks.report import Report, Row, median
from benchmarks.service import service, world
from tests.fakes.nix_stores import NixStore, find_nix, private_store
from tests.fakes.push import encode, headers, make_push

IDLE_SECONDS = 10.0
STARTS = 5
MOST_MEMORY, LONGEST_START = 64.0, 1000.0


@dataclass(frozen=True)
class Idled:
    """Memory at once and after the wait; CPU seconds and sleeps during the wait."""

    at_first: Memory
    later: Memory
    cpu: float
    sleeps: int


Starting = Callable[[], AbstractAsyncContextManager[Accepting]]


async def run(report: Report, options: Options) -> None:
    with private_store(find_nix("installed")) as store:
        await _compare(report, {"aiohttp bare": bare, "build-server": _of(store)})


def _of(store: NixStore) -> Starting:
    @asynccontextmanager
    async def server() -> AsyncIterator[Accepting]:
        async with world(store.env, store.program) as place, service(place) as server:
            yield Accepting(server.pid, server.port, server.started)

    return server


async def _compare(report: Report, kinds: Mapping[str, Starting]) -> None:
    starts: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(STARTS):
        for name, kind in kinds.items():
            starts[name].append(await _start(kind))
    rows: list[Row] = []
    found = {}
    for name, kind in kinds.items():
        found[name] = idled = await _idle(kind)
        rows.append(
            (
                name,
                median(starts[name]),
                idled.at_first.rss,
                idled.later.rss,
                idled.later.pss,
                idled.cpu / IDLE_SECONDS * 1000,
                idled.sleeps / IDLE_SECONDS,
            )
        )
    columns = (
        "server",
        "start to first 202 ms",
        "RSS MiB",
        "RSS MiB after 10 s",
        "PSS MiB after 10 s",
        "CPU ms/s",
        "wake-ups/s",
    )
    report.table(columns, rows)
    _goals(report, found["build-server"], median(starts["build-server"]))


def _goals(report: Report, idled: Idled, start: float) -> None:
    rss = idled.later.rss
    report.goal("idle below 64 MiB resident", f"{rss:.1f} MiB", rss < MOST_MEMORY)
    report.goal(
        "start to the first accepted push within 1 s",
        f"{start:.0f} ms",
        start < LONGEST_START,
    )
    often = idled.sleeps / IDLE_SECONDS
    report.goal(
        "no wake-ups but timers: fewer than 2 per second", f"{often:.1f}", often < 2
    )


async def _start(kind: Starting) -> float:
    """Milliseconds from the spawning to the first 202 of a signed push."""
    body = encode(make_push())
    async with kind() as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.port}/webhook"
        async with session.post(url, data=body, headers=headers(body)) as response:
            assert response.status == 202
        return (time.monotonic() - server.started) * 1000


async def _idle(kind: Starting) -> Idled:
    async with kind() as server:
        at_first = memory(server.pid)
        await asyncio.sleep(1)
        cpu, slept = cpu_seconds(server.pid), sleeps(server.pid)
        await asyncio.sleep(IDLE_SECONDS)
        return Idled(
            at_first=at_first,
            later=memory(server.pid),
            cpu=cpu_seconds(server.pid) - cpu,
            sleeps=sleeps(server.pid) - slept,
        )
