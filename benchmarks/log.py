"""log: how fast a command's output gets into its log, out of a large one, to many readers.

The command builder beside the same command piped into `cat > file`; the last 100 lines of
a log of 1 GiB beside those of a short one; a build that a thousand people watch beside the
same build alone.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from benchmarks.options import Options
from benchmarks.pushing import CLOCK, Pusher, pusher
from benchmarks.report import Report, Row, median, percentile
from benchmarks.service import Service, service, world
from ci.history.paths import checkout_path, log_path
from tests.end_to_end.server import World
from tests.fakes.waiting import wait_until

MB = 1e6
GIB = 1 << 30
LINE = "x" * 79
# What a command prints -> how many bytes, and how it does it.
OUTPUTS = {
    "blocks": (500_000_000, f"yes {LINE} | head -c 500000000"),
    "lines, one write each": (
        160_000_000,
        f"yes {LINE} | head -n 2000000 | grep --line-buffered ''",
    ),
}
TAILS = 100
FOLLOWERS = 1000
# A millisecond of work on one core for each of 3,000 lines; begun when `go` is there.
WATCHED = f"""#!/bin/sh
until [ -e go ]; do sleep 0.02; done
date +%s%N
i=0
while [ $i -lt 3000 ]; do
  j=0; while [ $j -lt 1500 ]; do j=$((j+1)); done
  i=$((i+1)); echo "$i {LINE}"
done
date +%s%N
"""


async def run(report: Report, options: Options) -> None:
    _allow_many_files()
    async with world() as place:
        place.repository = {"builder": "command", "command": ["./ci"]}
        place.build = {"log_limit": "4GiB"}
        async with service(place) as server, pusher(server) as push:
            await _throughput(report, options, place, push)
            await _tail(report, server)
            await _watched(report, options, server, push)


def _allow_many_files() -> None:
    """For the server and its followers, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * FOLLOWERS if hard < 0 else min(hard, 4 * FOLLOWERS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _script(place: World, text: str, salt: object) -> str:
    files = {"ci": f"{text}\n", "salt": str(salt)}
    return place.origin.commit(files, executable=["ci"])


# Into the log


async def _throughput(
    report: Report, options: Options, place: World, push: Pusher
) -> None:
    served, by_hand = defaultdict(list), defaultdict(list)
    for turn in range(options.rounds):
        for name, (size, command) in OUTPUTS.items():
            sha = _script(place, f"#!/bin/sh\n{command}", f"{name} {turn}")
            number = await push.begin(sha)
            await push.end(number)
            log = log_path(place.state_dir, number, 1)
            assert log.stat().st_size >= size
            log.write_bytes(b"")
            served[name].append(size / MB / push.target_seconds(number))
            seconds = await asyncio.to_thread(_pipe, command, place.folder / "piped")
            by_hand[name].append(size / MB / seconds)
    rows = []
    for name in OUTPUTS:
        ours, theirs = median(served[name]), median(by_hand[name])
        rows.append((name, ours, theirs, ours / theirs))
    report.table(
        ("output", "command builder MB/s", "piped into cat MB/s", "ratio"), rows
    )
    for name, _, _, ratio in rows:
        report.goal(
            f"log in {name}: half as fast as piped into `cat`",
            f"{ratio:.2f} ×",
            ratio >= 0.5,
        )


def _pipe(command: str, into: Path) -> float:
    """Seconds that the command takes into a pipe to `cat`."""
    begun = time.monotonic()
    subprocess.run(["sh", "-c", f"({command}) | cat > {into}"], check=True, timeout=60)
    seconds = time.monotonic() - begun
    into.unlink()
    return seconds


# Out of a large one


async def _tail(report: Report, server: Service) -> None:
    """Build 1 gets a log of 1 GiB, build 2 one of as many lines as are asked for."""
    large, small = (log_path(server.world.state_dir, n, 1) for n in (1, 2))
    await asyncio.to_thread(_fill, large, GIB)
    await asyncio.to_thread(_fill, small, TAILS * (len(LINE) + 1))
    took = defaultdict(list)
    async with aiohttp.ClientSession() as session:
        for _ in range(TAILS):
            for number in (1, 2):
                url = f"{server.private}/build/logs?lines=100&build={number}"
                begun = time.perf_counter()
                async with session.get(url) as response:
                    lines = (await response.json())["logs"]
                took[number].append((time.perf_counter() - begun) * 1000)
                assert lines == [LINE] * 100
    large.unlink()
    p50s = {number: median(values) for number, values in took.items()}
    rows = [
        (name, p50s[number], percentile(took[number], 99), p50s[number] / p50s[2])
        for number, name in ((1, "1 GiB"), (2, "8 kB"))
    ]
    report.table(("last 100 lines of", "p50 ms", "p99 ms", "ratio"), rows)
    report.goal(
        "the last 100 lines of 1 GiB within 5 ms", f"{p50s[1]:.1f} ms", p50s[1] < 5
    )


def _fill(path: Path, size: int) -> None:
    """Lines up to exactly `size` bytes, without holes."""
    piece = f"{LINE}\n".encode() * (1 << 14)
    with path.open("wb") as file:
        while (rest := size - file.tell()) > 0:
            file.write(piece[-rest:])


# To many readers


async def _watched(
    report: Report, options: Options, server: Service, push: Pusher
) -> None:
    alone, watched = [], []
    delivered: list[float] = []
    for turn in range(options.rounds):
        alone.append(await _run_watched(server, push, f"alone {turn}", 0, delivered))
        salt = f"watched {turn}"
        watched.append(await _run_watched(server, push, salt, FOLLOWERS, delivered))
    ratio = median(watched) / median(alone)
    rate = median(delivered) / MB / median(watched)
    rows: list[Row] = [
        ("nobody", median(alone), 1.0, None, None),
        (f"{FOLLOWERS} readers", median(watched), ratio, median(delivered) / MB, rate),
    ]
    columns = ("watched by", "build s", "ratio", "delivered MB", "MB/s")
    report.table(columns, rows)
    report.goal(
        f"a build is not slower for {FOLLOWERS} readers (within 10 %)",
        f"{ratio:.2f} ×",
        ratio <= 1.1,
    )


async def _run_watched(
    server: Service, push: Pusher, salt: str, count: int, delivered: list[float]
) -> float:
    """Seconds by the build's own clock, from its first line to its last."""
    place = server.world
    number = await push.begin(_script(place, WATCHED, salt))
    checkout = checkout_path(place.state_dir, number)
    await wait_until((checkout / "ci").exists, what="the checkout")
    path = f"/builds/{number}/log?follow=1"
    async with following(server, path, count) as readers:
        (checkout / "go").touch()
        await push.end(number)
        log = log_path(place.state_dir, number, 1).read_bytes()
        if readers is not None:
            said, _ = await asyncio.wait_for(readers.communicate(), 60)
            least, most = map(int, said.decode().split()[1:])
            assert least == most == len(log), (least, most, len(log))
            delivered.append(float(count * len(log)))
    first, last = CLOCK.findall(log)
    return (int(last) - int(first)) / 1e9


@asynccontextmanager
async def following(
    server: Service, path: str, count: int
) -> AsyncIterator[asyncio.subprocess.Process | None]:
    """So many readers of one address, all answered; None for no reader."""
    if not count:
        yield None
        return
    port = server.private.rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.followers",
        port,
        path,
        str(count),
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        said = await asyncio.wait_for(process.stdout.readline(), 30)
        assert said == b"ready\n", said
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
