"""Run all benchmarks, or those named.

python -m benchmarks [NAME…] [--rounds N] [--into docs/benchmarks.md]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

from benchmarks import (
    accept,
    client,
    first,
    history,
    idle,
    live,
    log,
    log_page,
    machine,
    overhead,
    time_pages,
)
from benchmarks.options import Options
from benchmarks.report import Report

Benchmark = Callable[[Report, Options], Coroutine[None, None, None]]
RESULTS = "## Results\n"
BENCHMARKS: dict[str, Benchmark] = {
    "accept": accept.run,
    "first": first.run,
    "overhead": overhead.run,
    "log": log.run,
    "log_page": log_page.run,
    "live": live.run,
    "idle": idle.run,
    "history": history.run,
    "times": time_pages.run,
    "client": client.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--rounds", type=int, default=3, help="3 unless told")
    parser.add_argument(
        "--into", type=Path, help="put the results under `## Results` of this page"
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(BENCHMARKS)
    if unknown:
        parser.error(
            f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}"
        )
    report, options = Report(), Options(rounds=chosen.rounds)
    report.note(machine.describe())
    begun = time.monotonic()
    for name in chosen.names or BENCHMARKS:
        report.heading(name)
        asyncio.run(BENCHMARKS[name](report, options))
    report.summary()
    report.note(f"All of it took {time.monotonic() - begun:.0f} s.")
    if chosen.into:
        _write(chosen.into, report.text)
    return 0


def _write(page: Path, results: str) -> None:
    before, title, _ = page.read_text(encoding="utf-8").partition(RESULTS)
    page.write_text(
        f"{before}{title or RESULTS}\n{results.rstrip()}\n", encoding="utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
