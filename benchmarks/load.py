"""Pressing deliveries against a port: wrk when it is installed, else replay.py."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deliveries import PATH, Deliveries

GENERATOR = "wrk" if shutil.which("wrk") else "replay.py"


@dataclass(frozen=True)
class Pressed:
    """What a generator saw: answers, those that were refusals, and milliseconds."""

    answers: int
    bad: int
    seconds: float
    p50: float
    p99: float
    longest: float

    @property
    def rate(self) -> float:
        return (self.answers - self.bad) / self.seconds


async def press(
    port: int,
    deliveries: Deliveries,
    *,
    connections: int,
    seconds: float,
    first: int = 0,
) -> Pressed:
    """Keep one request under way on each connection; begin with record `first`."""
    files = [str(deliveries.template), str(deliveries.records), str(first)]
    process = await asyncio.create_subprocess_exec(
        *_argv(port, connections, seconds, files),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds + 20):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    line = output.decode().rstrip().rpartition("\n")[2]
    assert line.startswith("RESULT "), output.decode()
    answers, bad, spent, *latencies = map(float, line.split()[1:])
    p50, p99, longest = (value / 1000 for value in latencies)
    return Pressed(int(answers), int(bad), spent / 1e6, p50, p99, longest)


def _argv(port: int, connections: int, seconds: float, files: list[str]) -> list[str]:
    if GENERATOR != "wrk":
        numbers = [str(port), str(connections), str(seconds)]
        return [sys.executable, "-m", "benchmarks.replay", *numbers, *files]
    script = Path(__file__).with_name("replay.lua")
    options = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-s", str(script)]
    return ["wrk", *options, f"http://127.0.0.1:{port}{PATH}", "--", *files]
