"""log_page: a log of 100,000 lines as a page: the server's time, and a browser's.

Lines of 3 to 14 words from four derivations, one of which failed; every twelfth is
coloured. The server's time is its process's, over the raw bytes of the same log; the
browser's is until its load event, with that of the server in it. Without Playwright or
Chromium there is no browser's time.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.machine import cpu_seconds
from benchmarks.options import Options
from benchmarks.pushing import pusher
from benchmarks.report import Report, median
from benchmarks.service import Service, service, world
from ci.history.paths import database_path, log_path
from ci.history.progress import Row, record_derivations
from tests.end_to_end.server import World

LINES = 100_000
WORDS = (
    *("compiling", "src/foo.c", "<T>", "&x", "warning:", "unused", "variable"),
    *("x86_64", "-O2", "linking", "object"),
)
WRITERS = ("web-1.0", "lib-2.3", "doc-0.1", "server-9")
MOST_SERVER_MS = 300.0
MOST_BROWSER_MS = 500.0
LOADED = (
    "(() => { const it = performance.getEntriesByType('navigation')[0]; "
    "return it.loadEventEnd - it.startTime; })()"
)
ASKED = {
    "raw": {"Accept": "text/plain"},
    "page": {"Accept": "text/html"},
}


async def run(report: Report, options: Options) -> None:
    async with world() as place:
        number = await _build(place)
        path = log_path(place.state_dir, number, 1)
        size = await asyncio.to_thread(_write, path)
        await asyncio.to_thread(_fail, database_path(place.state_dir), number)
        report.note(f"{LINES:,} lines, {size / 2**20:.1f} MiB.")
        # Now it is Nix that has built it, so that lines say who wrote them.
        place.repository = {}
        async with service(place) as server:
            await _server(report, options, server, number)
            await _browser(report, options, server, number)


async def _build(place: World) -> int:
    """A build of any kind."""
    place.repository = {"builder": "command", "command": ["true"]}
    async with service(place) as server, pusher(server) as push:
        number = await push.begin(place.origin.commit({"salt": "1"}))
        await push.end(number)
        await server.stop()
        return number


def _write(path: Path) -> int:
    dice = random.Random(1)
    lines = []
    for number in range(LINES):
        text = " ".join(dice.choices(WORDS, k=dice.randint(3, 14)))
        if number % 12 == 0:
            text = f"\x1b[1;31m{text}\x1b[0m"
        lines.append(f"{dice.choice(WRITERS)}> {text}\n")
    return path.write_text("".join(lines))


def _fail(history: Path, number: int) -> None:
    """One of the four failed: its lines are open on the page."""
    row = Row(f"/nix/store/{'0' * 32}-{WRITERS[0]}.drv", "", 1, 2, failed=True)
    with closing(sqlite3.connect(history)) as connection, connection:
        record_derivations(connection, number, 1, [row])


async def _server(
    report: Report, options: Options, server: Service, number: int
) -> None:
    took: dict[str, list[float]] = {form: [] for form in ASKED}
    cost: dict[str, list[float]] = {form: [] for form in ASKED}
    sizes: dict[str, int] = {}
    async with aiohttp.ClientSession() as session:
        # The first page has the templates compiled.
        for measured in range(-1, 4 * options.rounds):
            for form, headers in ASKED.items():
                busy, begun = cpu_seconds(server.pid), time.monotonic()
                url = f"{server.private}/builds/{number}/log"
                async with session.get(url, headers=headers) as response:
                    response.raise_for_status()
                    sizes[form] = len(await response.read())
                if measured >= 0:
                    took[form].append((time.monotonic() - begun) * 1000)
                    cost[form].append((cpu_seconds(server.pid) - busy) * 1000)
    report.table(
        ("asked for", "MiB", "server CPU ms", "ms until it is there"),
        [
            (form, sizes[form] / 2**20, median(cost[form]), median(took[form]))
            for form in ASKED
        ],
    )
    page = median(cost["page"])
    report.goal(
        f"{LINES:,} lines as a page: < {MOST_SERVER_MS:.0f} ms of the server's CPU",
        f"{page:.0f} ms",
        page < MOST_SERVER_MS,
    )


async def _browser(
    report: Report, options: Options, server: Service, number: int
) -> None:
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None:
        report.note("No Playwright or no Chromium here: no browser's time.")
        return
    page = f"{server.private}/builds/{number}/log"
    asked = {
        "page": page,
        f"page#L{LINES // 2} (in a closed fold)": f"{page}#L{LINES // 2}",
    }
    took: dict[str, list[float]] = {what: [] for what in asked}
    async with browser(chromium) as tab:
        for measured in range(-1, 4 * options.rounds):
            for what, url in asked.items():
                await tab.goto("about:blank")
                await tab.goto(url)
                loaded = float(await tab.evaluate(LOADED))
                if measured >= 0:
                    took[what].append(loaded)
    report.table(
        ("in Chromium", "ms until loaded", "quickest"),
        [(what, median(times), min(times)) for what, times in took.items()],
    )
    load = median(took["page"])
    report.goal(
        f"{LINES:,} lines are loaded in Chromium in < {MOST_BROWSER_MS:.0f} ms",
        f"{load:.0f} ms",
        load < MOST_BROWSER_MS,
    )


@asynccontextmanager
async def browser(chromium: str) -> AsyncIterator[Any]:
    """A tab of a headless Chromium."""
    from playwright.async_api import async_playwright

    async with async_playwright() as play:
        opened = await play.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        try:
            yield await opened.new_page()
        finally:
            await opened.close()
