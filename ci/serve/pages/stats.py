"""How builds have gone lately, in numbers and pictures."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from aiohttp import web
from pydantic import Field

from ci.adapters.host import disk, now_ms
from ci.history import days, flaky, trends
from ci.history.trends import Past
from ci.serve import html, shapes
from ci.serve.pages import plots
from ci.serve.pages.numbers import Found, Stats, Store, facts, headline, stats
from ci.serve.parameters import (
    WHOLE,
    DaysField,
    NameField,
    Query,
    named,
    no_repository,
    query,
)
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of

MOST = 300
WINDOWS = (7, 30, 90)


class StatsQuery(Query):
    repo: NameField = Field(None, description="a repository by its configured name")
    branch: NameField = Field(None, description="a branch")
    days: DaysField = Field(
        None,
        description="numbers of all that ended in so many days, today included: a whole "
        "number from 1 to 100; of the last builds when left out",
    )
    limit: Annotated[int, Field(ge=1, le=MOST), WHOLE] = Field(
        200, description=f"how many of the last builds, a whole number from 1 to {MOST}"
    )


async def show_stats(request: web.Request) -> web.Response:
    """`GET /stats`: how builds have gone, of everything or of what is asked for."""
    service, asked = service_of(request), query(request, StatsQuery)
    known = None if asked.repo is None else named(service.settings, asked.repo)
    repo = known.name if known else asked.repo
    found = await service.database.read(_read, repo, asked)
    if not found.window and repo is not None and known is None:
        raise no_repository(service.settings, repo)
    store = await _store(service, found.window)
    told = stats(found, repo, asked.branch, service.settings.build.parallel, store)
    return await html.respond(
        request, told, lambda: _text(told), lambda: _page(service, asked, told)
    )


def _read(connection: sqlite3.Connection, repo: str | None, asked: StatsQuery) -> Found:
    window = trends.window(
        connection, repo=repo, branch=asked.branch, limit=asked.limit
    )
    if asked.days is None:
        return Found(window, flaky.flakes(connection, window))
    first = days.day_of(now_ms()) - asked.days + 1
    totals = days.totals(connection, first, repo, asked.branch)
    begin = first * days.DAY_MS
    window = [
        build
        for build in window
        if build.finished_at is None or build.finished_at >= begin
    ]
    found = flaky.flakes(connection, window)
    return Found(window, found, totals, asked.days, first)


async def _store(service: Service, window: Sequence[Past]) -> Store | None:
    """The store that the newest results are in; None where there are none."""
    if not window:
        return None
    path = await service.database.read(trends.store_of, window[-1].number)
    if path is None:
        return None
    return await asyncio.to_thread(_disk, Path(path))


def _disk(path: Path) -> Store | None:
    try:
        found = disk(path)
    except OSError:
        return None
    return Store(found.free, found.total)


def _page(service: Service, asked: StatsQuery, told: Stats) -> html.Page:
    settings = service.settings
    branches = {b for repository in settings.repositories for b in repository.branches}
    return html.Page(
        "stats.html",
        "Stats",
        {
            "stats": told,
            "headline": headline(told),
            "facts": facts(told),
            "figures": plots.figures(told.points) if told.points else [],
            "repositories": [repository.name for repository in settings.repositories],
            "branches": sorted(branches | ({asked.branch} if asked.branch else set())),
            "windows": sorted({*WINDOWS, *({asked.days} if asked.days else ())}),
            "limit": asked.limit,
            "limits": sorted({20, 50, 200, MOST, asked.limit}),
            "asked": urlencode(asked.model_dump(exclude_none=True, exclude_unset=True)),
        },
    )


def _text(told: Stats) -> str:
    """The numbers, for a terminal of 80 columns."""
    where = " ".join(filter(None, (told.repo, told.branch))) or "all repositories"
    lines = [f"{headline(told)} of {where}"]
    for group in facts(told) if told.builds else ():
        if group.title:
            lines += ["", group.title]
        lines += [
            f"  {what:<15} {much:>10}  {of}".rstrip() for what, much, of in group.rows
        ]
    if told.flakes:
        lines += ["", "flaky:"]
    for flake in told.flakes:
        what = flake.target or "the same commit"
        lines.append(f"  ✗ #{flake.failed} ✓ #{flake.succeeded} {what}")
    return "\n".join(map(html.visible, lines)) + "\n"


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/stats",
        show_stats,
        "Durations, waits, results and caches of the last builds, or of days",
        {
            200: Answer("the numbers", (Stats,), text=True, page=True),
            404: Answer("no such repository", (shapes.Error,)),
        },
        query=StatsQuery,
        twin="/stats",
    ),
)
