"""The numbers of /stats: of all that ended in some days, or of the last builds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from ci.adapters.host import now_ms
from ci.history import flaky, trends
from ci.history.days import DAY_MS, Spread, Totals
from ci.history.flaky import Flake
from ci.history.trends import Past
from ci.models import BuildState, human_seconds, rfc3339
from ci.serve import shapes
from ci.serve.pages import plots
from ci.serve.pages.points import StatsPoint, good_seconds, points_of
from ci.serve.shapes import rounded


class StatsFlake(shapes.Shape):
    """Two builds that ended differently, of the same derivation or the same commit."""

    target: str | None = Field(description="null: one commit that was built again")
    failed: int
    succeeded: int


class Stats(shapes.Shape):
    """How builds of everything, of a repository or of a branch have gone.

    With `days`, from `builds` to `cache_ratio` of all that ended in these days, the rest
    of the newest of them; without, all of the last builds.
    """

    repo: str | None
    branch: str | None
    days: int | None = Field(description="days of UTC, with today; null: not asked for")
    builds: int = Field(description="how many the numbers are of")
    since: shapes.Moment | None = Field(
        description="the begin of the first day; without days, when the first was queued"
    )
    seconds_p50: float | None = Field(
        description="of those that succeeded; with days, within 5 %"
    )
    seconds_p90: float | None
    wait_p50: float | None = Field(description="seconds in the queue; as above")
    wait_p95: float | None
    success_rate: float | None = Field(description="of those with a verdict")
    succeeded: int
    failed: int
    built: int = Field(description="derivations")
    substituted: int = Field(description="paths from caches")
    cache_ratio: float | None = Field(description="substituted of both")
    newest: int = Field(description="how many builds the following is of, and `points`")
    repair_seconds: float | None = Field(
        description="mean, from breaking to good again"
    )
    repairs: int
    attempts: int
    error_attempts: int = Field(description="that ended by the server's own fault")
    flakes: list[StatsFlake] = Field(description=f"at most {flaky.MOST}, newest first")
    busy_share: float | None = Field(description="of the builds allowed at once")
    store_used: int | None = Field(description="bytes, after the newest that looked")
    store_free: int | None = Field(description="bytes, now")
    points: list[StatsPoint]


@dataclass(frozen=True)
class Store:
    """The file system of the store now, in bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Found:
    """What was read: the newest builds, oldest first, and, if asked for, whole days.

    `first` is the first of the `days`, as history/days.py numbers them.
    """

    window: Sequence[Past]
    flakes: Sequence[Flake]
    totals: Totals | None = None
    days: int | None = None
    first: int = 0


@dataclass(frozen=True)
class Group:
    """Lines of the table: (what, how much, of what or how it is meant)."""

    title: str
    rows: Sequence[tuple[str, str, str]]


def stats(
    found: Found, repo: str | None, branch: str | None, slots: int, store: Store | None
) -> Stats:
    """All that the page tells; `slots` are the builds allowed at once."""
    window = found.window
    attempts = [attempt for build in window for attempt in build.attempts]
    repairs = trends.repairs(window)
    used = [a.store_used for a in attempts if a.store_used is not None]
    totals = found.totals or _of_window(window)
    succeeded = totals.states.get(BuildState.SUCCEEDED, 0)
    failed = totals.states.get(BuildState.FAILED, 0)
    return Stats(
        repo=repo,
        branch=branch,
        days=found.days,
        since=_since(found),
        builds=totals.ended,
        seconds_p50=rounded(totals.took.percentile(0.5)),
        seconds_p90=rounded(totals.took.percentile(0.9)),
        wait_p50=rounded(totals.waited.percentile(0.5)),
        wait_p95=rounded(totals.waited.percentile(0.95)),
        success_rate=_share(succeeded, succeeded + failed),
        succeeded=succeeded,
        failed=failed,
        built=totals.built,
        substituted=totals.substituted,
        cache_ratio=_share(totals.substituted, totals.substituted + totals.built),
        newest=len(window),
        repair_seconds=rounded(sum(repairs) / len(repairs)) if repairs else None,
        repairs=len(repairs),
        attempts=len(attempts),
        error_attempts=sum(build.errors for build in window),
        flakes=[
            StatsFlake(target=one.target, failed=one.failed, succeeded=one.succeeded)
            for one in found.flakes
        ],
        busy_share=rounded(trends.busy(window, slots, now_ms())),
        store_used=used[-1] if used else None,
        store_free=store.free if store else None,
        points=points_of(window),
    )


def _since(found: Found) -> str | None:
    if found.totals is not None:
        return rfc3339(found.first * DAY_MS)
    return rfc3339(found.window[0].queued_at) if found.window else None


def _of_window(window: Sequence[Past]) -> Totals:
    """The same of the last builds, one by one."""
    good = [value for value in good_seconds(window) if value is not None]
    waits = [build.wait for build in window if build.wait is not None]
    attempts = [attempt for build in window for attempt in build.attempts]
    return Totals(
        states=Counter(build.state for build in window),
        took=Spread([(seconds, 1) for seconds in sorted(good)]),
        waited=Spread([(seconds, 1) for seconds in sorted(waits)]),
        built=sum(attempt.built or 0 for attempt in attempts),
        substituted=sum(attempt.substituted or 0 for attempt in attempts),
    )


def _share(part: int, whole: int) -> float | None:
    return rounded(part / whole) if whole else None


def facts(stats: Stats) -> list[Group]:
    """The numbers with their words, as the page and the text say them."""
    newest = f"Of the newest {_builds(stats.newest)}" if stats.days else ""
    return [
        Group("", _first(stats)),
        Group(newest, _second(stats)),
    ]


def headline(stats: Stats) -> str:
    """What the numbers are of."""
    if stats.days is None:
        return f"the last {_builds(stats.builds)}"
    days = "today" if stats.days == 1 else f"in the last {stats.days} days"
    return f"the {_builds(stats.builds)} that ended {days}"


def _builds(count: int) -> str:
    return f"{count:,} build" if count == 1 else f"{count:,} builds"


def _first(stats: Stats) -> Sequence[tuple[str, str, str]]:
    about = ", within 5 %" if stats.days else ""
    return [
        (
            "Duration p50",
            _took(stats.seconds_p50),
            f"of the {stats.succeeded:,} good ones{about}",
        ),
        ("Duration p90", _took(stats.seconds_p90), "9 of 10 of them took no longer"),
        ("Wait p50", _took(stats.wait_p50), "in the queue, before the first attempt"),
        ("Wait p95", _took(stats.wait_p95), "19 of 20 waited no longer"),
        (
            "Success rate",
            _percent(stats.success_rate),
            f"{stats.succeeded:,} succeeded, {stats.failed:,} failed",
        ),
        (
            "From caches",
            _percent(stats.cache_ratio),
            f"{stats.substituted:,} paths fetched, {stats.built:,} derivations built",
        ),
    ]


def _second(stats: Stats) -> Sequence[tuple[str, str, str]]:
    repairs = "repair" if stats.repairs == 1 else "repairs"
    return [
        (
            "Time to repair",
            _took(stats.repair_seconds),
            f"mean of {stats.repairs} {repairs}, from breaking to good again",
        ),
        (
            "Flaky",
            str(len(stats.flakes)),
            "failed and succeeded, though it was the same",
        ),
        (
            "Our errors",
            str(stats.error_attempts),
            f"of {stats.attempts} attempts: not the commits' fault",
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
