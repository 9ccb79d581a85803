"""How builds have gone lately, in numbers and pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

from aiohttp import web
from pydantic import Field

from ci.adapters.host import disk, now_ms
from ci.history import trends
from ci.history.trends import Past, percentile
from ci.models import BuildState, human_seconds, rfc3339
from ci.serve import html, shapes
from ci.serve.pages import plots
from ci.serve.pages.points import StatsPoint, good_seconds, points_of
from ci.serve.parameters import WHOLE, NameField, Query, named, no_repository, query
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of
from ci.serve.shapes import rounded

MOST = 300


class StatsQuery(Query):
    repo: NameField = Field(None, description="a repository by its configured name")
    branch: NameField = Field(None, description="a branch")
    limit: Annotated[int, Field(ge=1, le=MOST), WHOLE] = Field(
        200, description=f"how many of the last builds, a whole number from 1 to {MOST}"
    )


class Stats(shapes.Shape):
    """The last builds of everything, of a repository or of a branch."""

    repo: str | None
    branch: str | None
    builds: int = Field(description="how many the window has")
    since: shapes.Moment | None = Field(description="when the first was queued")
    seconds_p50: float | None = Field(description="of those that succeeded")
    seconds_p90: float | None
    wait_p50: float | None = Field(description="seconds in the queue")
    wait_p95: float | None
    success_rate: float | None = Field(description="of those with a verdict")
    succeeded: int
    failed: int
    repair_seconds: float | None = Field(
        description="mean, from breaking to good again"
    )
    repairs: int
    attempts: int
    error_attempts: int = Field(description="that ended by the server's own fault")
    built: int = Field(description="derivations")
    substituted: int = Field(description="paths from caches")
    cache_ratio: float | None = Field(description="substituted of both")
    busy_share: float | None = Field(description="of the builds allowed at once")
    store_used: int | None = Field(description="bytes, after the newest that looked")
    store_free: int | None = Field(description="bytes, now")
    points: list[StatsPoint]


@dataclass(frozen=True)
class Store:
    """The file system of the store now, in bytes."""

    free: int
    total: int


async def show_stats(request: web.Request) -> web.Response:
    """`GET /stats`: the last builds, of everything or of what is asked for."""
    service, asked = service_of(request), query(request, StatsQuery)
    found = None if asked.repo is None else named(service.settings, asked.repo)
    repo = found.name if found else asked.repo
    window = await service.database.read(
        trends.window, repo=repo, branch=asked.branch, limit=asked.limit
    )
    if not window and repo is not None and found is None:
        raise no_repository(service.settings, repo)
    store = await _store(service, window)
    stats = _stats(window, repo, asked.branch, service.settings.build.parallel, store)
    return await html.respond(
        request, stats, lambda: _text(stats), lambda: _page(service, asked, stats)
    )


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


def _stats(
    window: Sequence[Past],
    repo: str | None,
    branch: str | None,
    slots: int,
    store: Store | None,
) -> Stats:
    good = good_seconds(window)
    waits = [build.wait for build in window if build.wait is not None]
    states = [build.state for build in window]
    succeeded = states.count(BuildState.SUCCEEDED)
    failed = states.count(BuildState.FAILED)
    repairs = trends.repairs(window)
    attempts = [attempt for build in window for attempt in build.attempts]
    built = sum(attempt.built or 0 for attempt in attempts)
    substituted = sum(attempt.substituted or 0 for attempt in attempts)
    used = [a.store_used for a in attempts if a.store_used is not None]
    return Stats(
        repo=repo,
        branch=branch,
        builds=len(window),
        since=rfc3339(window[0].queued_at) if window else None,
        seconds_p50=rounded(percentile(_known(good), 0.5)),
        seconds_p90=rounded(percentile(_known(good), 0.9)),
        wait_p50=rounded(percentile(waits, 0.5)),
        wait_p95=rounded(percentile(waits, 0.95)),
        success_rate=_share(succeeded, succeeded + failed),
        succeeded=succeeded,
        failed=failed,
        repair_seconds=rounded(sum(repairs) / len(repairs)) if repairs else None,
        repairs=len(repairs),
        attempts=len(attempts),
        error_attempts=sum(build.errors for build in window),
        built=built,
        substituted=substituted,
        cache_ratio=_share(substituted, substituted + built),
        busy_share=rounded(trends.busy(window, slots, now_ms())),
        store_used=used[-1] if used else None,
        store_free=store.free if store else None,
        points=points_of(window),
    )


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _share(part: int, whole: int) -> float | None:
    return rounded(part / whole) if whole else None


def facts(stats: Stats) -> list[tuple[str, str, str]]:
    """(what, how much, of what or how it is meant), as the page and the text say it."""
    repairs = "repair" if stats.repairs == 1 else "repairs"
    return [
        (
            "Duration p50",
            _took(stats.seconds_p50),
            f"of the {stats.succeeded} good ones",
        ),
        ("Duration p90", _took(stats.seconds_p90), "9 of 10 of them took no longer"),
        ("Wait p50", _took(stats.wait_p50), "in the queue, before the first attempt"),
        ("Wait p95", _took(stats.wait_p95), "19 of 20 waited no longer"),
        (
            "Success rate",
            _percent(stats.success_rate),
            f"{stats.succeeded} succeeded, {stats.failed} failed",
        ),
        (
            "Time to repair",
            _took(stats.repair_seconds),
            f"mean of {stats.repairs} {repairs}, from breaking to good again",
        ),
        (
            "Our errors",
            str(stats.error_attempts),
            f"of {stats.attempts} attempts: not the commits' fault",
        ),
        (
            "From caches",
            _percent(stats.cache_ratio),
            f"{stats.substituted} paths fetched, {stats.built} derivations built",
        ),
        (
            "Busy",
            _percent(stats.busy_share),
            "of the builds allowed at once, with these",
        ),
        ("Store used", plots.size(stats.store_used), "after the newest build"),
        ("Store free", plots.size(stats.store_free), "now"),
    ]


def _took(seconds: float | None) -> str:
    return "–" if seconds is None else human_seconds(seconds)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _page(service: Service, asked: StatsQuery, stats: Stats) -> html.Page:
    settings = service.settings
    branches = {b for repository in settings.repositories for b in repository.branches}
    return html.Page(
        "stats.html",
        "Stats",
        {
            "stats": stats,
            "facts": facts(stats),
            "figures": plots.figures(stats.points) if stats.points else [],
            "repositories": [repository.name for repository in settings.repositories],
            "branches": sorted(branches | ({asked.branch} if asked.branch else set())),
            "limit": asked.limit,
            "limits": sorted({20, 50, 200, MOST, asked.limit}),
            "asked": urlencode(asked.model_dump(exclude_none=True, exclude_unset=True)),
        },
    )


def _text(stats: Stats) -> str:
    """The numbers, for a terminal of 80 columns."""
    where = " ".join(filter(None, (stats.repo, stats.branch))) or "all repositories"
    builds = "build" if stats.builds == 1 else "builds"
    lines = [f"the last {stats.builds} {builds} of {where}"]
    if stats.builds:
        lines += [
            f"  {what:<15} {much:>10}  {of}".rstrip() for what, much, of in facts(stats)
        ]
    return "\n".join(map(html.visible, lines)) + "\n"


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/stats",
        show_stats,
        "Durations, waits, results and caches of the last builds",
        {
            200: Answer("the numbers", (Stats,), text=True, page=True),
            404: Answer("no such repository", (shapes.Error,)),
        },
        query=StatsQuery,
        twin="/stats",
    ),
)
