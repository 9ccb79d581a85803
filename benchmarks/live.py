"""live: what a thousand open pages cost a server whose builds run.

Each listens to `/events`. Measured is how long builds of one fixed piece of work take, from
the push to the end, in turn with nobody listening; the server's processor time for each
event and listener, over that of the builds alone; its memory for each listener.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field

from benchmarks.log import following
from benchmarks.machine import memory, thread_seconds
from benchmarks.options import Options
from benchmarks.pushing import Pusher, pusher
from benchmarks.report import Report, Row, median
from benchmarks.service import Service, service, world
from tests.end_to_end.server import World

LISTENERS = 1000
BUILDS = 4
MOST_SLOWER = 1.05
PATH = "/events"
# Bytes of a heartbeat: of these some listeners have had one more when it ends.
PING = len(": ping\n\n")
WORK = "#!/bin/sh\nhead -c 200000000 /dev/zero | sha256sum\n"


@dataclass
class Turns:
    """Builds one after the other: milliseconds of each; CPU seconds and events of all."""

    took: list[float] = field(default_factory=list)
    cpu: float = 0.0
    events: int = 0


async def run(report: Report, options: Options) -> None:
    alone, watched = Turns(), Turns()
    async with world() as place:
        place.repository = {"builder": "command", "command": ["./ci"]}
        async with service(place) as server, pusher(server) as push:
            # The first build is no sample.
            await _build(place, push, "first")
            each = 0.0
            for turn in range(options.rounds):
                await _turn(alone, server, push, f"alone {turn}")
                before = memory(server.pid).rss
                async with following(server, PATH, LISTENERS) as readers:
                    # Later turns find memory that the first one left.
                    each = each or (memory(server.pid).rss - before) * 1024 / LISTENERS
                    await _turn(watched, server, push, f"watched {turn}")
                    if turn == options.rounds - 1:
                        assert readers is not None
                        await _all_told(report, server, readers)
    _tell(report, alone, watched, each)


async def _all_told(
    report: Report, server: Service, readers: asyncio.subprocess.Process
) -> None:
    """The server stops, which ends the streams: each was sent the same, but for pings."""
    await server.stop()
    said, _ = await asyncio.wait_for(readers.communicate(), 60)
    least, most = map(int, said.decode().split()[1:])
    report.goal(
        f"{LISTENERS} open pages are all told the same",
        f"{least:,} to {most:,} bytes each",
        least > 0 and most - least <= 2 * PING,
    )


async def _turn(turns: Turns, server: Service, push: Pusher, salt: str) -> None:
    busy, begun = thread_seconds(server.pid), _events(server)
    for number in range(BUILDS):
        turns.took.append(await _build(server.world, push, f"{salt} {number}"))
    turns.cpu += thread_seconds(server.pid) - busy
    turns.events += _events(server) - begun


async def _build(place: World, push: Pusher, salt: str) -> float:
    """Milliseconds from the push of a commit to the end of its build."""
    sha = place.origin.commit({"ci": WORK, "salt": salt}, executable=["ci"])
    return (await push.push(sha, before=sha)).finished


def _events(server: Service) -> int:
    """How many there have been."""
    address = f"{server.database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as rows:
        return int(rows.execute("SELECT max(id) FROM events").fetchone()[0] or 0)


def _tell(report: Report, alone: Turns, watched: Turns, each: float) -> None:
    ratio = median(watched.took) / median(alone.took)
    count = len(watched.took)
    more = (watched.cpu - alone.cpu) / watched.events * 1e6
    rows: list[Row] = [
        ("nobody", median(alone.took), 1.0, alone.cpu / count * 1000, None, None),
        (
            f"{LISTENERS} pages",
            median(watched.took),
            ratio,
            watched.cpu / count * 1000,
            more / LISTENERS,
            each,
        ),
    ]
    columns = (
        "listening",
        "build ms",
        "ratio",
        "CPU ms per build",
        "CPU µs per event and page",
        "KiB per page",
    )
    report.table(columns, rows)
    report.goal(
        f"a build takes at most {MOST_SLOWER:g} times as long for {LISTENERS} open pages",
        f"{ratio:.2f} ×",
        ratio <= MOST_SLOWER,
    )
