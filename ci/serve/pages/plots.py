"""The pictures of /stats, each with the table of what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ci.history.trends import rolling
from ci.models import BuildState, human_seconds
from ci.serve import svg
from ci.serve.pages.points import SPAN, StatsPoint
from ci.serve.svg import Dot, Line
from ci.serve.text import SYMBOLS

GIB = 1024**3
# What is drawn as one -> steps of build/flake.py and build/command.py.
STEPS = {
    "fetching": ("fetching", "fetching inputs"),
    "evaluating": ("evaluating",),
    "building": ("building", "running"),
}
MARKED = (BuildState.FAILED, BuildState.ERROR)


@dataclass(frozen=True)
class Figure:
    """A picture, what it says in words, and its rows; `id` names it in the page.

    The picture is None where nothing is known.
    """

    id: str
    title: str
    about: str
    picture: Markup | None
    columns: Sequence[str]
    rows: Markup


def size(count: int | None) -> str:
    """Bytes for people."""
    return "–" if count is None else f"{count / GIB:.1f} GiB"


def figures(points: Sequence[StatsPoint]) -> list[Figure]:
    """What is known of the builds, oldest first."""
    return [
        _durations(points),
        _waits(points),
        _steps(points),
        _caches(points),
        _store(points),
    ]


def _durations(points: Sequence[StatsPoint]) -> Figure:
    dots = [
        Dot(
            place,
            point.seconds,
            point.state,
            f"/builds/{point.number}",
            f"#{point.number} {point.state} {human_seconds(point.seconds)}",
        )
        for place, point in enumerate(points)
        if point.state in MARKED and point.seconds is not None
    ]
    lines = [
        Line("p50", [point.p50 for point in points]),
        Line("p90", [point.p90 for point in points]),
    ]
    return Figure(
        "durations",
        "Durations",
        f"Of the last {SPAN} good builds at each place. "
        "✗ is one that failed, ! an error of ours.",
        _plot(lines, dots, name="Durations, oldest build first", ends=_ends(points)),
        ("Build", "State", "Took", "p50", "p90"),
        _rows(points, lambda p: (_took(p.seconds), _took(p.p50), _took(p.p90))),
    )


def _waits(points: Sequence[StatsPoint]) -> Figure:
    points = [point for point in points if point.wait_seconds is not None]
    waits = [point.wait_seconds for point in points]
    lines = [
        Line("p50", rolling(waits, 0.5, SPAN)),
        Line("p95", rolling(waits, 0.95, SPAN)),
    ]
    return Figure(
        "waits",
        "Waiting in the queue",
        f"Before the first attempt; of the last {SPAN} builds at each place.",
        _plot(lines, name="Waits, oldest build first", ends=_ends(points)),
        ("Build", "State", "Waited"),
        _rows(points, lambda p: (_took(p.wait_seconds),)),
    )


def _steps(points: Sequence[StatsPoint]) -> Figure:
    points = [point for point in points if point.steps]
    taken = {
        name: [_sum(point, steps) for point in points] for name, steps in STEPS.items()
    }
    lines = [Line(name, rolling(values, 0.5, SPAN)) for name, values in taken.items()]
    return Figure(
        "steps",
        "Where the time goes",
        f"The median of each step of the last attempts; {SPAN} builds at each place.",
        _plot(lines, name="Steps, oldest build first", ends=_ends(points)),
        ("Build", "State", *(name.capitalize() for name in STEPS)),
        _rows(points, lambda p: [_took(_sum(p, steps)) for steps in STEPS.values()]),
    )


def _sum(point: StatsPoint, steps: Sequence[str]) -> float | None:
    """What these steps took together; None when the build got to none of them."""
    found = [point.steps[step] for step in steps if step in point.steps]
    return sum(found) if found else None


def _caches(points: Sequence[StatsPoint]) -> Figure:
    points = [p for p in points if p.built is not None and p.substituted is not None]
    return Figure(
        "caches",
        "From caches",
        f"Paths fetched, as a share of those and of derivations built: the last {SPAN} "
        "builds together at each place.",
        _plot(
            [Line("share from caches", _shares(points))],
            name="Share from caches, oldest build first",
            ends=_ends(points),
            unit=lambda share: f"{share:.0%}",
            top=1.0,
        ),
        ("Build", "State", "Fetched", "Built"),
        _rows(points, lambda p: (_count(p.substituted), _count(p.built))),
    )


def _store(points: Sequence[StatsPoint]) -> Figure:
    points = [point for point in points if point.store_used is not None]
    used = [(point.store_used or 0) / GIB for point in points]
    return Figure(
        "store",
        "Store",
        "In use on the store's file system when each build ended.",
        _plot(
            [Line("in use", used)],
            name="Store in use, oldest build first",
            ends=_ends(points),
            unit=lambda gib: f"{gib:g} GiB",
        ),
        ("Build", "State", "In use"),
        _rows(points, lambda p: (size(p.store_used),)),
    )


def _plot(lines: Sequence[Line], dots: Sequence[Dot] = (), **how: Any) -> Markup | None:
    """The lines, unless none of them has a value."""
    values = (value for line in lines for value in line.values)
    if not dots and all(value is None for value in values):
        return None
    return svg.line(lines, dots, **how)


def _shares(points: Sequence[StatsPoint]) -> list[float | None]:
    """Of everything that the last builds got, how much came from caches."""
    found: list[float | None] = []
    for place in range(len(points)):
        recent = points[max(0, place - SPAN + 1) : place + 1]
        fetched = sum(point.substituted or 0 for point in recent)
        whole = fetched + sum(point.built or 0 for point in recent)
        found.append(fetched / whole if whole else None)
    return found


def _ends(points: Sequence[StatsPoint]) -> tuple[str, str]:
    if not points:
        return "", ""
    first, last = f"#{points[0].number}", f"#{points[-1].number}"
    return first, last if last != first else ""


def _rows(
    points: Sequence[StatsPoint], cells: Callable[[StatsPoint], Sequence[str]]
) -> Markup:
    """Newest first; the cells are our own words. No template makes hundreds of rows."""
    rows = [
        f'<tr><td><a href="/builds/{point.number}">#{point.number}</a></td>'
        f'<td class="is-{point.state}">{SYMBOLS[point.state]} {point.state}</td><td>'
        + "</td><td>".join(cells(point))
        + "</td></tr>"
        for point in reversed(points)
    ]
    return svg.safe("\n".join(rows))


def _took(seconds: float | None) -> str:
    return "–" if seconds is None else human_seconds(seconds)


def _count(number: int | None) -> str:
    return "–" if number is None else str(number)
