"""When each derivation was built, as a page, a picture and a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiohttp import hdrs, web
from markupsafe import Markup
from pydantic import Field

from ci.adapters.host import now_ms
from ci.errors import RequestError
from ci.history import attempts, builds, timeline as history
from ci.history.attempts import Attempt
from ci.history.database import Database
from ci.history.timeline import Stay
from ci.models import Build, BuildState, human_seconds, rfc3339
from ci.serve import answers, html, shapes, svg, text
from ci.serve.pages import gantt
from ci.serve.pages.shown import HERE, WORDS, Shown
from ci.serve.pages.trace import trace
from ci.serve.parameters import Number, Query, build_number, no_build, query
from ci.serve.route import NUMBER, Answer, Route
from ci.serve.service import service_of
from ci.text import printable

# Of the text twin: the columns of a name, and of its bar.
NAME, LENGTH = 26, 28


class TimelineQuery(Query):
    attempt: Number | None = Field(
        None,
        description="one of the build's attempts, from 1 on; the last when left out",
    )


class TimelineStep(shapes.Shape):
    """One thing that the attempt did."""

    name: str
    started_at: shapes.Moment
    seconds: float


class TimelineDerivation(shapes.Shape):
    """One derivation's stay in a builder."""

    path: str
    name: str
    machine: str = Field(description="the remote builder; empty for this host")
    state: BuildState = Field(
        description="succeeded, failed, running, or cancelled: the attempt ended first"
    )
    started_at: shapes.Moment
    seconds: float
    waited_seconds: float = Field(description="for a builder or a download")
    after: str | None = Field(description="what it needed and had last, by path")
    needs: list[str] = Field(description="what it needs of this attempt, by path")
    critical: bool


class Timeline(shapes.Shape):
    """Where the time of one attempt went."""

    build: int
    state: BuildState
    attempt: int | None = Field(description="null: none has begun")
    attempts: list[int]
    started_at: shapes.Moment | None
    finished_at: shapes.Moment | None
    seconds: float | None
    steps: list[TimelineStep]
    built: int | None = Field(description="derivations; null: not known")
    substituted: int | None = Field(description="paths from caches; null: not known")
    critical_path: list[str] = Field(description="paths, the first one first")
    critical_seconds: float
    drawn: int = Field(description="how many derivations the picture has")
    derivations: list[TimelineDerivation]


class Trace(shapes.Shape):
    """Chrome's trace event format."""

    traceEvents: list[dict[str, Any]] = Field(
        description="complete events (X) in microseconds, and the names of processes"
    )
    displayTimeUnit: str
    otherData: dict[str, Any]


async def show_timeline(request: web.Request) -> web.Response:
    """`GET /builds/{number}/timeline`."""
    shown = await _shown(request)
    form = answers.wanted(request, "json", html.FORMS)
    # Thousands of bars take a moment: meanwhile others are answered.
    if form == "page":
        page = await asyncio.to_thread(_page, request.query_string, shown)
        response = await html.as_page(request, page)
    elif form == "text":
        response = answers.text_answer(await asyncio.to_thread(_text, shown))
    else:
        shape = await asyncio.to_thread(_shape, shown)
        response = answers.json_answer(shape)
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


async def show_picture(request: web.Request) -> web.Response:
    """`GET /builds/{number}/timeline.svg`: the picture on its own, in light colours."""
    shown = await _shown(request)
    return web.Response(
        body=await asyncio.to_thread(gantt.alone, shown), content_type="image/svg+xml"
    )


async def show_trace(request: web.Request) -> web.Response:
    """`GET /builds/{number}/timeline/trace.json`: for Perfetto and the like."""
    shown = await _shown(request)
    name = f"build-{shown.build.number}-trace.json"
    return web.Response(
        body=await asyncio.to_thread(trace, shown),
        content_type="application/json",
        headers={"Content-Disposition": f'inline; filename="{name}"'},
    )


async def _shown(request: web.Request) -> Shown:
    """What was asked for; raises RequestError 404."""
    number, asked = build_number(request), query(request, TimelineQuery)
    database = service_of(request).database
    build = await database.read(builds.get, number)
    if build is None:
        raise no_build(number)
    tries = (await database.read(attempts.last, number))[::-1]
    attempt = await _chosen(database, build, asked.attempt)
    stays: Sequence[Stay] = ()
    now = now_ms()
    if attempt is not None:
        stays = await database.read(history.stays, number, attempt.number)
        now = now if attempt.finished_at is None else attempt.finished_at
    return Shown(build, tries, attempt, stays, now)


async def _chosen(
    database: Database, build: Build, wanted: int | None
) -> Attempt | None:
    """The attempt asked for, else the last; raises RequestError 404."""
    number = wanted or build.attempt
    found = await database.read(attempts.one, build.number, number)
    if found is None and wanted is not None:
        raise RequestError(
            404,
            f"build {build.number} has no attempt {wanted}; it has {build.attempt}",
            {"build": build.number, "attempt": wanted},
        )
    return found


def _shape(shown: Shown) -> Timeline:
    attempt = shown.attempt
    return Timeline(
        build=shown.build.number,
        state=shown.build.state,
        attempt=attempt.number if attempt else None,
        attempts=[one.number for one in shown.attempts],
        started_at=rfc3339(attempt.started_at) if attempt else None,
        finished_at=rfc3339(attempt.finished_at) if attempt else None,
        seconds=shown.seconds if attempt else None,
        steps=[
            TimelineStep(name=name, started_at=rfc3339(at) or "", seconds=seconds)
            for (name, seconds), at in zip(shown.steps, shown.step_begins, strict=True)
        ],
        built=attempt.built if attempt else None,
        substituted=attempt.substituted if attempt else None,
        critical_path=shown.path,
        critical_seconds=shown.critical_seconds,
        drawn=len(shown.drawn),
        derivations=[_derivation(shown, stay) for stay in shown.stays],
    )


def _derivation(shown: Shown, stay: Stay) -> TimelineDerivation:
    wait = shown.waits[stay.path]
    return TimelineDerivation(
        path=stay.path,
        name=stay.name,
        machine=stay.machine,
        state=shown.state(stay),
        started_at=rfc3339(stay.started_at) or "",
        seconds=stay.seconds(shown.now),
        waited_seconds=wait.seconds,
        after=wait.after or None,
        needs=list(stay.needs),
        critical=stay.path in shown.critical,
    )


def _page(asked: str, shown: Shown) -> html.Page:
    build = shown.build
    return html.Page(
        "timeline.html",
        f"{text.SYMBOLS[build.state]} #{build.number} timeline",
        {
            "shown": shown,
            "build": build,
            "picture": gantt.picture(shown) if shown.stays else None,
            "nothing": nothing(shown),
            "rows": _table(shown),
            "asked": asked,
        },
        icon=html.ICONS.get(build.state, "none"),
        events=f"/events?build={build.number}" if shown.live else "",
        live=shown.live,
    )


def _table(shown: Shown) -> Markup:
    """The rows of the table: there may be thousands, so no template makes them."""
    return svg.safe("\n".join(_table_row(shown, stay) for stay in shown.stays))


def _table_row(shown: Shown, stay: Stay) -> str:
    state = shown.state(stay)
    sign = "◆ " if stay.path in shown.critical else ""
    began = human_seconds((stay.started_at - shown.begin) / 1000)
    return (
        f'<tr><td title="{svg.text(stay.path)}">{sign}{svg.text(stay.name)}</td>'
        f'<td class="is-{state}">{text.SYMBOLS[state]} {WORDS[state]}</td><td>{began}</td>'
        f"<td>{human_seconds(stay.seconds(shown.now))}</td>"
        f"<td>{svg.text(stay.machine or HERE)}</td><td>{svg.text(shown.why(stay))}</td></tr>"
    )


def nothing(shown: Shown) -> str:
    """Why there is no derivation to be seen."""
    if shown.attempt is None:
        if shown.build.state is BuildState.QUEUED:
            return "It waits: no attempt has begun yet."
        return f"It was {shown.build.state} before anything began."
    if shown.running:
        return "Nothing is being built yet."
    if shown.attempt.built == 0:
        return "Nothing was built: all of it was there, or came from caches."
    return "Nothing was built by Nix in this attempt."


def _text(shown: Shown) -> str:
    """The same for a terminal of 80 columns."""
    lines = [text.headline(shown.build)]
    if shown.attempt is not None:
        lines.append(
            f"  attempt {shown.attempt.number} of {shown.build.attempt}: "
            f"{human_seconds(shown.seconds)}"
        )
        lines += [f"  {human_seconds(s):>8}  {name}" for name, s in shown.steps]
    if not shown.stays:
        return "\n".join([*lines, f"  {nothing(shown)}"]) + "\n"
    lines += ["", *_path_lines(shown), "", *(_row(shown, stay) for stay in shown.stays)]
    return "\n".join(lines) + "\n"


def _path_lines(shown: Shown) -> list[str]:
    if not shown.path:
        return ["  nothing is known to have waited for anything else"]
    took = human_seconds(shown.critical_seconds)
    count = len(shown.path)
    return [f"  the critical path (◆) has {count} derivations and took {took}"]


def _row(shown: Shown, stay: Stay) -> str:
    """`◆ ✓   1m 3s  web-1.2 ········ ▕   ████    ▏`; the machine where it is another."""
    whole = shown.end - shown.begin
    first = LENGTH * (stay.started_at - shown.begin) // whole
    last = max(first + 1, -(-LENGTH * (stay.end(shown.now) - shown.begin) // whole))
    bar = (" " * first + "█" * (last - first)).ljust(LENGTH)[:LENGTH]
    name = printable(stay.name)
    name = name if len(name) <= NAME else name[: NAME - 1] + "…"
    took = human_seconds(stay.seconds(shown.now))
    sign = "◆" if stay.path in shown.critical else " "
    row = f"{sign} {text.SYMBOLS[shown.state(stay)]} {took:>8}  {name:<{NAME}} |{bar}|"
    return f"{row} {printable(stay.machine)}".rstrip()


_ANSWERS = {
    404: Answer("no such build or attempt", (shapes.Error,)),
}
ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        NUMBER + "/timeline.svg",
        show_picture,
        "The timeline of an attempt as a picture",
        {200: Answer("the picture", media="image/svg+xml"), **_ANSWERS},
        query=TimelineQuery,
    ),
    Route(
        "GET",
        NUMBER + "/timeline/trace.json",
        show_trace,
        "The timeline of an attempt in Chrome's trace event format",
        {200: Answer("the trace", (Trace,)), **_ANSWERS},
        query=TimelineQuery,
    ),
    Route(
        "GET",
        NUMBER + "/timeline",
        show_timeline,
        "When each derivation of an attempt was built, and what took the longest",
        {200: Answer("the timeline", (Timeline,), text=True, page=True), **_ANSWERS},
        query=TimelineQuery,
        twin=NUMBER + "/timeline",
    ),
)
