"""client: what `bs`, `bt` and `bl` cost beside the server's answers.

Whole processes, less the milliseconds that `-v` says they waited for the server; in turn
with a Python that does nothing. The server has built one commit.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.options import Options
from benchmarks.pushing import CLOCK_SCRIPT, pusher
from benchmarks.report import Report, Row, median, percentile
from benchmarks.service import service, world
from tests.fakes.push import ZERO

RUNS = 10
MOST_MS = 60.0
_WAITED = re.compile(r"^\w+: (?:GET|POST) \S+ \d+ (\d+) ms$", re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """Milliseconds of a process, and how many of them it waited for the server."""

    wall: float
    waited: float


async def run(report: Report, options: Options) -> None:
    programs = Path(sys.executable).parent
    if not (programs / "bs").exists():
        report.note("There is no `bs` beside this Python: not measured.")
        return
    ran: dict[str, list[Ran]] = defaultdict(list)
    async with world() as place:
        place.repository = {"builder": "command", "command": ["./ci"]}
        sha = place.origin.commit({"ci": CLOCK_SCRIPT}, executable=["ci"])
        async with service(place) as server, pusher(server) as push:
            await push.push(sha, before=ZERO)
            env = {**place.environ, "BUILD_SERVER_URL": server.private}
            commands = {
                "python -I -S -c pass": [sys.executable, "-I", "-S", "-c", "pass"],
                "bs": [str(programs / "bs"), "-v"],
                "bt SHA": [str(programs / "bt"), "-v", sha],
                "bl": [str(programs / "bl"), "-v"],
            }
            for _ in range(RUNS * options.rounds):
                for name, argv in commands.items():
                    ran[name].append(
                        await asyncio.to_thread(_run, argv, env, place.folder)
                    )
    _tell(report, ran)


def _run(argv: Sequence[str], env: Mapping[str, str], cwd: Path) -> Ran:
    begun = time.perf_counter()
    done = subprocess.run(
        argv, env=env, cwd=cwd, capture_output=True, text=True, timeout=20
    )
    wall = (time.perf_counter() - begun) * 1000
    assert done.returncode == 0, done.stderr
    return Ran(wall, sum(map(float, _WAITED.findall(done.stderr))))


def _tell(report: Report, ran: Mapping[str, Sequence[Ran]]) -> None:
    rows: list[Row] = []
    owned = {}
    floor = median([one.wall for one in ran["python -I -S -c pass"]])
    for name, runs in ran.items():
        own = [one.wall - one.waited for one in runs]
        owned[name] = median(own)
        rows.append(
            (
                name,
                median([one.wall for one in runs]),
                owned[name],
                percentile(own, 99),
                owned[name] / floor,
            )
        )
    columns = ("process", "wall ms", "its own ms", "its own p99 ms", "× python")
    report.table(columns, rows)
    for name in ("bs", "bt SHA"):
        report.goal(
            f"`{name}`: less than 60 ms of its own",
            f"{owned[name]:.0f} ms",
            owned[name] < MOST_MS,
        )
