"""times: how long the pages about time take, in the server, with much to tell.

/stats and a repository's page with a million builds in the history, /builds/N/timeline
with 2,000 derivations.
Counted is the processor time of the server, all its threads together, so that neither the
client nor what else the machine does is in it; beside the time until the client has all.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from benchmarks.generated import BRANCHES, REPOSITORIES, Generated, generate
from benchmarks.machine import thread_seconds
from benchmarks.options import Options
from benchmarks.report import Report, Row, median
from benchmarks.service import Service, service, world
from ci.history import progress
from ci.history.paths import database_path

BUILDS = 1_000_000
DERIVATIONS = 2000
BUILDERS = 16
ASKED = 40
MOST_MS = 20.0
# A picture of 2,000 bars and a table of as many rows: seldom asked for.
MOST_TIMELINE_MS = 100.0
FLOOR = "/client.json"
FORMS = {"JSON": "application/json", "HTML": "text/html", "text": "text/plain"}
# Not the newest, which wait and have no attempt.
BUILD = BUILDS - 1000
TIMELINE = f"/builds/{BUILD}/timeline"
PATHS: Mapping[str, str] = {
    FLOOR: FLOOR,
    "/stats": "/stats",
    "/stats?limit=300": "/stats?limit=300",
    "/stats?repo=": f"/stats?repo={REPOSITORIES[0]}",
    "/stats?branch=": f"/stats?branch={BRANCHES[0]}",
    "/stats?repo=&branch=": f"/stats?repo={REPOSITORIES[0]}&branch={BRANCHES[0]}",
    "/stats?repo=&branch= (rare repo)": f"/stats?repo={REPOSITORIES[-1]}&branch=main",
    "/stats?days=7": "/stats?days=7",
    "/stats?days=90": "/stats?days=90",
    "/stats?days=90&limit=300": "/stats?days=90&limit=300",
    "/stats?days=90&branch=": f"/stats?days=90&branch={BRANCHES[0]}",
    "/stats?days=90&repo=&branch=": (
        f"/stats?days=90&repo={REPOSITORIES[0]}&branch={BRANCHES[0]}"
    ),
    "/repos/o/n": f"/repos/{REPOSITORIES[0]}",
    "/repos/o/n?branch=": f"/repos/{REPOSITORIES[1]}?branch={BRANCHES[1]}",
    "/cc.xml": "/cc.xml",
    "/builds/N/timeline": TIMELINE,
    "/builds/N/timeline.svg": f"{TIMELINE}.svg",
    "/builds/N/timeline/trace.json": f"{TIMELINE}/trace.json",
}
ONE_FORM = (".svg", ".json", ".xml")


async def run(report: Report, options: Options) -> None:
    async with world() as place:
        tables = "\n".join(
            f'[[repository]]\nname = "{name}"\nbuilder = "command"\ncommand = ["./ci"]'
            for name in REPOSITORIES[1:]
        )
        place.extra = tables
        place.repository = {"builder": "command", "command": ["./ci"]}
        path = database_path(place.state_dir)
        history = await asyncio.to_thread(generate, path, BUILDS)
        await asyncio.to_thread(_record, history)
        report.note(
            f"{BUILDS:,} builds in the history, {DERIVATIONS:,} derivations in the "
            "timeline; milliseconds."
        )
        async with service(place) as server:
            _tell(report, await _ask(server))


def _record(history: Generated) -> None:
    """What the newest builds measured, and one timeline of many derivations."""
    connection = sqlite3.connect(history.path, isolation_level=None)
    try:
        connection.execute("BEGIN")
        connection.execute(
            "UPDATE attempts SET built = build % 7, substituted = build % 31, "
            "store_used = build * 100000 WHERE build > ?",
            (history.builds - 20_000,),
        )
        rows, end = _derivations(random.Random(1))
        begun = rows[0].started_at
        progress.record_attempt(
            connection,
            BUILD,
            1,
            steps=[("fetching", begun - 900), ("building", begun - 100)],
            built=len(rows),
            substituted=7,
            store_used=None,
        )
        progress.record_derivations(connection, BUILD, 1, rows)
        connection.execute(
            "UPDATE attempts SET started_at = ?, finished_at = ? WHERE build = ?",
            (begun - 1000, end, BUILD),
        )
        connection.execute("COMMIT")
    finally:
        connection.close()


def _derivations(dice: random.Random) -> tuple[list[progress.Row], int]:
    """Derivations on a few builders, each of which needs two that had ended."""
    free = [1_700_000_000_000] * BUILDERS
    rows: list[progress.Row] = []
    for number in range(DERIVATIONS):
        builder = min(range(BUILDERS), key=lambda one: free[one])
        begun = free[builder] + dice.randrange(10, 100)
        free[builder] = begun + int(dice.expovariate(1 / 8000)) + 50
        ended = [row.path for row in rows if (row.stopped_at or 0) <= begun]
        rows.append(
            progress.Row(
                f"/nix/store/{number:032d}-derivation-{number}.drv",
                "",
                begun,
                free[builder],
                needs=dice.sample(ended, min(2, len(ended))),
                failed=dice.random() < 0.01,
            )
        )
    return rows, max(free)


@dataclass(frozen=True)
class Taken:
    """What one kind of answer took: milliseconds of the server, of the client; bytes."""

    server: float
    client: float
    size: int


async def _ask(server: Service) -> dict[tuple[str, str], Taken]:
    """(what, form) -> what one answer takes."""
    taken = {}
    async with aiohttp.ClientSession(server.private) as session:
        for name, path in PATHS.items():
            for form in ["JSON"] if path.endswith(ONE_FORM) else FORMS:
                headers = {"Accept": FORMS[form]}
                times, before, size = [], 0.0, 0
                for turn in range(ASKED + 1):
                    begun = time.perf_counter()
                    async with session.get(path, headers=headers) as answer:
                        size = len(await answer.read())
                        assert answer.status == 200, f"{path}: {answer.status}"
                    # The first fills caches, and loads templates.
                    if not turn:
                        before = thread_seconds(server.pid) * 1000
                    else:
                        times.append((time.perf_counter() - begun) * 1000)
                spent = (thread_seconds(server.pid) * 1000 - before) / ASKED
                taken[name, form] = Taken(spent, median(times), size)
    return taken


def _tell(report: Report, taken: Mapping[tuple[str, str], Taken]) -> None:
    floor = taken[FLOOR, "JSON"].server
    rows: list[Row] = [
        (name, form, one.server, one.server / floor, one.client, one.size / 1024)
        for (name, form), one in taken.items()
    ]
    report.table(
        ("asked for", "form", "server ms", "× floor", "client ms", "KiB"), rows
    )
    for kind, limit, what in (
        ("stats", MOST_MS, f"/stats with {BUILDS:,} builds"),
        ("repos", MOST_MS, f"a repository's page with {BUILDS:,} builds"),
        ("timeline", MOST_TIMELINE_MS, f"a timeline of {DERIVATIONS:,} derivations"),
    ):
        most = max(one.server for (name, _), one in taken.items() if kind in name)
        report.goal(
            f"{what} takes less than {limit:g} ms of the server",
            f"{most:.1f} ms at most",
            most < limit,
        )
