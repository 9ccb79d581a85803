"""accept: signed pushes accepted per second, each of them durable and a new build.

Beside Debian's `webhook` program, which checks the same signature and keeps nothing, and
aiohttp that checks nothing. Afterwards the server is killed, and every 202 must be a row.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from benchmarks import deliveries as pushes
from benchmarks.contenders import Contender, contenders
from benchmarks.deliveries import Deliveries
from benchmarks.load import GENERATOR, Pressed, press
from benchmarks.machine import busy_cores, cpu_seconds, spending
from benchmarks.options import Options
from benchmarks.report import Report, median

CONNECTIONS = (1, 16, 64)
COUNT = 60_000
SECONDS = 2.0
WARM_UP = 1.0
OURS = "build-server"
Key = tuple[str, str]


@dataclass(frozen=True)
class Sample:
    """One contender pressed once; `cpu` is its seconds, `others` cores of strangers.

    `promised` pushes were answered 202 before it was killed, and `kept` were rows then.
    """

    pressed: Pressed
    cpu: float
    others: float
    promised: int
    kept: int


async def run(report: Report, options: Options) -> None:
    with tempfile.TemporaryDirectory(prefix="bs-bench-") as folder:
        deliveries = pushes.make(Path(folder), COUNT)
        report.note(
            f"Bodies of {deliveries.body_size:,} bytes, sent by {GENERATOR} for "
            f"{SECONDS:g} s per cell; {options.rounds} rounds, medians."
        )
        samples: dict[Key, list[Sample]] = defaultdict(list)
        for _ in range(options.rounds):
            for connections in CONNECTIONS:
                for name, contender in contenders().items():
                    sample = await _measure(contender, deliveries, connections)
                    samples[name, str(connections)].append(sample)
            for name, contender in contenders().items():
                sample = await _measure(contender, deliveries, 16, busy=True)
                samples[name, "16, busy"].append(sample)
    _tell(report, samples)


async def _measure(
    contender: Contender, deliveries: Deliveries, connections: int, busy: bool = False
) -> Sample:
    async with contender(deliveries) as server:
        warm = await press(
            server.port, deliveries, connections=connections, seconds=WARM_UP
        )
        loops = busy_cores(SECONDS + 10) if busy else nullcontext()
        first = warm.answers + 2 * connections
        before = cpu_seconds(server.pid)
        with spending() as spent, loops:
            pressed = await press(
                server.port,
                deliveries,
                connections=connections,
                seconds=SECONDS,
                first=first % deliveries.count,
            )
        cpu = cpu_seconds(server.pid) - before
        promised = warm.answers + pressed.answers - warm.bad - pressed.bad
        kept = server.kept() if server.kept else 0
    return Sample(pressed, cpu, spent.others(cpu), promised, kept)


def _tell(report: Report, samples: dict[Key, list[Sample]]) -> None:
    rows = []
    for connections in (*map(str, CONNECTIONS), "16, busy"):
        floor = _rate(samples["aiohttp bare", connections])
        for name in contenders():
            found = samples[name, connections]
            rate = _rate(found)
            rows.append(
                (
                    connections,
                    name,
                    rate,
                    median([s.pressed.p50 for s in found]),
                    median([s.pressed.p99 for s in found]),
                    rate / floor,
                    median([s.cpu / s.pressed.answers * 1e6 for s in found]),
                    max(s.others for s in found),
                )
            )
    columns = (
        "connections",
        "server",
        "req/s",
        "p50 ms",
        "p99 ms",
        "× bare",
        "CPU µs/req",
        "others' cores",
    )
    report.table(columns, rows)
    ours = [s for (name, _), found in samples.items() if name == OURS for s in found]
    promised, kept = sum(s.promised for s in ours), sum(s.kept for s in ours)
    refused = sum(s.pressed.bad for s in ours)
    report.goal(
        "every push answered 202 is a build of its own after `kill -9`; none is refused",
        f"{promised:,} answers, {kept:,} rows, {refused} refused",
        all(s.kept >= s.promised for s in ours) and not refused,
    )
    _goals(report, samples)


def _rate(samples: list[Sample]) -> float:
    return median([sample.pressed.rate for sample in samples])


def _goals(report: Report, samples: dict[Key, list[Sample]]) -> None:
    def p99(connections: str) -> float:
        found = samples[OURS, connections]
        return median([sample.pressed.p99 for sample in found])

    for connections in ("16", "64"):
        theirs = samples.get(("webhook", connections))
        if theirs:
            ratio = _rate(samples[OURS, connections]) / _rate(theirs)
            report.goal(
                f"{connections} connections: at least as many pushes as `webhook`",
                f"{ratio:.2f} ×",
                ratio >= 1,
            )
    slow, busy = p99("64"), p99("16, busy")
    report.goal("64 connections: p99 < 40 ms", f"{slow:.1f} ms", slow < 40)
    report.goal("16 connections, busy cores: p99 < 50 ms", f"{busy:.1f} ms", busy < 50)
