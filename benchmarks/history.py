"""history: how long answers take when a million builds are in the history.

Beside an answer that reads no history. A client on loopback measures, so its own share is
in every number. Then pushes, in turn with the same to a server with an empty history.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack

import aiohttp

from benchmarks.generated import BRANCHES, REPOSITORIES, Generated, generate
from benchmarks.options import Options
from benchmarks.pushing import CLOCK_SCRIPT, Timeline, pusher
from benchmarks.report import Report, Row, median, percentile
from benchmarks.service import Service, service, world
from ci.history.paths import database_path
from ci.models import BuildState
from tests.end_to_end.server import World
from tests.fakes.push import ZERO

BUILDS = 1_000_000
ASKED = 100
PUSHES = 10
MOST_MS = 20.0
FLOOR = "/client.json"
STATES = [str(state) for state in BuildState]
ENDED = [str(state) for state in BuildState if state.final]
PAGES = {"/builds?before=", "/builds?q= (found)", "/repos/o/n?branch="}
FORMS = {"JSON": "application/json", "HTML": "text/html"}
Ask = Callable[[random.Random, Generated], str]


def _number(dice: random.Random, history: Generated) -> int:
    return dice.randrange(1, history.builds)


ASKS: Mapping[str, Ask] = {
    FLOOR: lambda dice, history: FLOOR,
    "/build/status": lambda dice, history: "/build/status",
    "/build/status?repo=&branch=": lambda dice, history: (
        f"/build/status?repo={dice.choice(REPOSITORIES)}&branch={dice.choice(BRANCHES)}"
    ),
    "/": lambda dice, history: "/",
    "/builds": lambda dice, history: "/builds",
    "/builds?before=": lambda dice, history: f"/builds?before={_number(dice, history)}",
    "/builds?repo=": lambda dice, history: f"/builds?repo={dice.choice(REPOSITORIES)}",
    "/builds?branch=": lambda dice, history: f"/builds?branch={dice.choice(BRANCHES)}",
    "/builds?state=": lambda dice, history: f"/builds?state={dice.choice(STATES)}",
    "/builds?repo=&branch=&before=": lambda dice, history: (
        f"/builds?repo={REPOSITORIES[0]}&branch=main&before={_number(dice, history)}"
    ),
    "/builds?repo=&state= (rare repo)": lambda dice, history: (
        f"/builds?repo={REPOSITORIES[-1]}&state={dice.choice(STATES)}"
    ),
    "/builds?repo=&branch=&state= (rare repo)": lambda dice, history: (
        f"/builds?repo={REPOSITORIES[-1]}&branch=dev&state={dice.choice(STATES)}"
    ),
    "/builds?branch= (nothing found)": lambda dice, history: "/builds?branch=nowhere",
    "/builds?repo=&branch=&state= (nothing found)": lambda dice, history: (
        f"/builds?repo={REPOSITORIES[0]}&branch=nowhere&state={dice.choice(STATES)}"
    ),
    "/builds?q= (found)": lambda dice, history: (
        f"/builds?q={dice.randrange(100, 1000)}&before={_number(dice, history)}"
    ),
    "/builds?q= (nothing found)": lambda dice, history: (
        f"/builds?q=nowhere&before={_number(dice, history)}"
    ),
    "/builds?repo=&branch=&state=&q= (nothing found)": lambda dice, history: (
        f"/builds?repo={REPOSITORIES[0]}&branch=dev&state={dice.choice(STATES)}&q=nowhere"
    ),
    "/builds/N": lambda dice, history: f"/builds/{_number(dice, history)}",
    "/commits/SHA": lambda dice, history: (
        f"/commits/{history.sha(_number(dice, history))}"
    ),
    "/commits/SHA (7 digits)": lambda dice, history: (
        f"/commits/{history.sha(_number(dice, history))[:7]}"
    ),
    "/repos/o/n": lambda dice, history: f"/repos/{REPOSITORIES[0]}",
    "/repos/o/n/badge.svg": lambda dice, history: f"/repos/{REPOSITORIES[0]}/badge.svg",
    "/repos/o/n/feed.atom": lambda dice, history: f"/repos/{REPOSITORIES[0]}/feed.atom",
    "/repos/o/n?branch=": lambda dice, history: (
        f"/repos/{dice.choice(REPOSITORIES)}?branch={dice.choice(BRANCHES)}"
    ),
    "/repos/o/n/badge.json": lambda dice, history: (
        f"/repos/{REPOSITORIES[-1]}/badge.json"
    ),
    "/repos/o/n/feed.atom?state=": lambda dice, history: (
        f"/repos/{dice.choice(REPOSITORIES)}/feed.atom?state={dice.choice(ENDED)}"
    ),
    "/repos/o/n/feed.atom?changed=1": lambda dice, history: (
        f"/repos/{dice.choice(REPOSITORIES)}/feed.atom?changed=1"
    ),
    "/feed.atom": lambda dice, history: "/feed.atom",
    "/feed.atom?state=": lambda dice, history: f"/feed.atom?state={dice.choice(ENDED)}",
    "/feed.atom?changed=1": lambda dice, history: "/feed.atom?changed=1",
    "/cc.xml": lambda dice, history: "/cc.xml",
    "/repos/o/n/cc.xml": lambda dice, history: f"/repos/{REPOSITORIES[0]}/cc.xml",
    "/help": lambda dice, history: "/help",
    "/stats": lambda dice, history: "/stats",
    "/metrics": lambda dice, history: "/metrics",
    "/health": lambda dice, history: "/health",
}


async def run(report: Report, options: Options) -> None:
    async with world() as place:
        _configure(place)
        begun = time.monotonic()
        path = database_path(place.state_dir)
        history = await asyncio.to_thread(generate, path, BUILDS)
        report.note(
            f"{BUILDS:,} builds, {path.stat().st_size / 2**20:,.0f} MiB, made in "
            f"{time.monotonic() - begun:.0f} s."
        )
        async with service(place) as server:
            took = await _ask_everything(report, server, history)
            _tell(report, took)
            await _push(report, server)


def _configure(place: World) -> None:
    """All repositories of the history; the first is also pushed to."""
    command = (
        f'branches = {json.dumps(BRANCHES)}\nbuilder = "command"\ncommand = ["./ci"]'
    )
    place.extra = "\n".join(
        f'[[repository]]\nname = "{name}"\n{command}' for name in REPOSITORIES[1:]
    )
    place.repository = {
        "branches": list(BRANCHES),
        "builder": "command",
        "command": ["./ci"],
    }


async def _ask_everything(
    report: Report, server: Service, history: Generated
) -> dict[tuple[str, str], list[float]]:
    """(what, form) -> milliseconds; what this version does not serve is left out."""
    dice = random.Random(1)
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    missing = set()
    async with aiohttp.ClientSession(server.private) as session:
        for _ in range(ASKED):
            for name, form in _kinds():
                if name in missing:
                    continue
                path = ASKS[name](dice, history)
                begun = time.perf_counter()
                async with session.get(
                    path, headers={"Accept": FORMS[form]}, allow_redirects=False
                ) as answer:
                    await answer.read()
                spent = (time.perf_counter() - begun) * 1000
                if answer.status == 404:
                    missing.add(name)
                    continue
                # A browser that asks for a commit is sent to its only build.
                assert answer.status in (200, 302), f"{path}: {answer.status}"
                took[name, form].append(spent)
    if missing:
        report.note(f"Not served by this version: {', '.join(sorted(missing))}.")
    return took


def _kinds() -> Iterator[tuple[str, str]]:
    for name in ASKS:
        yield name, "JSON"
        if "?" not in name or name in PAGES:
            yield name, "HTML"


def _tell(report: Report, took: Mapping[tuple[str, str], list[float]]) -> None:
    floor = median(took[FLOOR, "JSON"])
    rows: list[Row] = []
    slow = []
    for (name, form), values in took.items():
        p99 = percentile(values, 99)
        rows.append((name, form, median(values), p99, median(values) / floor))
        if p99 >= MOST_MS:
            slow.append(f"{name} {form} {p99:.0f} ms")
    report.table(("asked for", "form", "p50 ms", "p99 ms", "× floor"), rows)
    report.goal(
        f"with {BUILDS:,} builds every answer within 20 ms (p99)",
        ", ".join(slow) or f"{max(float(row[3] or 0) for row in rows):.1f} ms at most",
        not slow,
    )


async def _push(report: Report, large: Service) -> None:
    """Pushes to this server, in turn with the same to one whose history was empty."""
    took: dict[str, list[Timeline]] = {"a million builds": [], "nothing": []}
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(world())
        _configure(place)
        servers = [large, await stack.enter_async_context(service(place))]
        pushers = [await stack.enter_async_context(pusher(s)) for s in servers]
        shas = [ZERO, ZERO]
        for number in range(PUSHES + 1):
            for turn, (name, push) in enumerate(zip(took, pushers, strict=True)):
                files = {"ci": CLOCK_SCRIPT, "n": str(number)}
                origin = servers[turn].world.origin
                sha = origin.commit(files, executable=["ci"])
                took[name].append(await push.push(sha, before=shas[turn]))
                shas[turn] = sha
    rows: list[Row] = [
        (
            name,
            median([timeline.response for timeline in timelines[1:]]),
            median([timeline.first for timeline in timelines[1:]]),
            median([timeline.finished for timeline in timelines[1:]]),
        )
        for name, timelines in took.items()
    ]
    columns = ("history has", "push to response ms", "to first", "to finished")
    report.table(columns, rows)
    first = float(rows[0][2] or 0)
    report.goal(
        f"with {BUILDS:,} builds a push to the first instruction within 150 ms",
        f"{first:.0f} ms",
        first < 150,
    )
