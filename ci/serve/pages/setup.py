"""The first run, and how the server is: each check, and how to mend it."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from aiohttp import web
from pydantic import Field

from ci.adapters.host import now_ms
from ci.config import secret_paths
from ci.errors import HistoryError
from ci.history import arrived
from ci.history.arrived import Arrived
from ci.models import Check, rfc3339
from ci.serve import forms, html, shapes, status
from ci.serve.answers import json_answer
from ci.serve.guard import caller
from ci.serve.pages import setup_rows
from ci.serve.pages.setup_rows import Facts, Line, RowState
from ci.serve.parameters import NoQuery, no_body, query
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of
from ci.text import printable

# Seconds that `/health`'s looks may take here; the doctor's bound themselves.
PATIENCE = 2.0
COLUMNS = 80
SAID_MS = 10 * 60 * 1000
MARKS: Mapping[str, str] = {
    RowState.WAITING: "◌",
    RowState.WELL: "✓",
    RowState.LOOK: "!",
    RowState.WRONG: "✗",
    RowState.OPTIONAL: "–",
}
ICONS: Mapping[str, str] = {
    RowState.WAITING: "wait",
    RowState.WELL: "ok",
    RowState.LOOK: "ok",
    RowState.WRONG: "bad",
}

log = logging.getLogger(__name__)


class SetupRow(shapes.Shape):
    """One step of the first run."""

    key: str
    title: str
    state: RowState
    seen: str
    at: shapes.Moment | None = Field(description="when that was; null: now")
    fix: str
    copy_lines: list[str] = Field(description="lines to copy")
    notes: list[str]


class SetupCheck(shapes.Check):
    """A check of the running server or of the doctor."""

    by: str = Field(description="`server` or `doctor`")


class Setup(shapes.Shape):
    """The first run, step by step, and every check; never a secret."""

    first_run: bool = Field(description="no build has ended yet")
    state: RowState = Field(description="the worst of all that counts")
    verdict: str
    looking: bool = Field(description="the doctor has not ended its first look")
    rows: list[SetupRow]
    checks: list[SetupCheck]
    said: str = Field(description="what GitHub answered when it was asked for a ping")


class Pinged(shapes.Shape):
    """What GitHub said when it was asked for a ping."""

    asked: bool = Field(description="it sends one now")
    message: str


async def show(request: web.Request) -> web.Response:
    """`GET /setup`: getting started until the first build has ended, then the health."""
    query(request, NoQuery)
    service = service_of(request)
    asker = caller(request, service.settings)
    shape = _shape(service, await _facts(service, request.host, asker))
    return await html.respond(
        request, shape, lambda: _text(shape), lambda: _page(request, service, shape)
    )


async def ping(request: web.Request) -> web.Response:
    """`POST /setup/ping`: have GitHub send a ping; the page then says what came."""
    query(request, NoQuery)
    if forms.sent(request):
        await forms.fields(request, ())
    else:
        await no_body(request)
    first_run = service_of(request).first_run
    asked, sentence = await first_run.ping()
    first_run.said.at, first_run.said.sentence = now_ms(), sentence
    answer = Pinged(asked=asked, message=sentence)
    return forms.see(request, json_answer(answer), "/setup")


async def findings(service: Service) -> list[Check]:
    """What the page shows, but for what changes by the second: news when it differs."""
    facts = await _facts(service)
    checks = [*facts.health, *(facts.doctor or ())]
    looking = Check("doctor", facts.doctor is not None, "")
    return [
        looking,
        *(
            Check(line.key, line.state is RowState.WELL, line.seen, line.fix)
            for line in setup_rows.rows(facts)
        ),
        *(replace(check, detail="") if check.ok else check for check in checks),
    ]


async def _facts(service: Service, host: str = "", asker: str = "") -> Facts:
    (happened, fault), doctor, health, files = await asyncio.gather(
        _history(service),
        service.first_run.examine(),
        status.found_by(service, PATIENCE),
        asyncio.to_thread(_webhook_files, service),
    )
    return Facts(
        settings=service.settings,
        arrived=happened,
        health=[*health, *fault],
        doctor=doctor,
        refused=service.first_run.refused(happened.signed_at),
        machines=service.first_run.seen.machines(),
        opened=service.first_run.opened.at,
        secret_files=files,
        notifies=service.secrets().notify_urls is not None,
        host=host,
        caller=asker,
    )


async def _history(service: Service) -> tuple[Arrived, list[Check]]:
    """What has arrived; a history that fails is a finding, not an error page."""
    try:
        return await service.database.read(arrived.arrived), []
    except (sqlite3.Error, HistoryError) as error:
        log.warning("the history cannot be read for /setup: %s", error)
        problem = f"it cannot be read now: {error}"
        return arrived.NOTHING, [Check("history", False, problem, "see the log")]


def _webhook_files(service: Service) -> list[str]:
    """The files with the webhook's secret, as the configuration names them."""
    files = secret_paths(service.settings, os.environ)
    return [file.shown for file in files if file.key == "github.webhook_secret_file"]


def _shape(service: Service, facts: Facts) -> Setup:
    lines = setup_rows.rows(facts)
    checks = [
        *(_check(check, "server") for check in facts.health),
        *(_check(check, "doctor") for check in facts.doctor or ()),
    ]
    first_run = not facts.arrived.ended
    state = _worst(lines, checks, first_run=first_run)
    said = service.first_run.said
    fresh = now_ms() - said.at < SAID_MS
    return Setup(
        first_run=first_run,
        state=state,
        verdict=_verdict(lines, checks, state, first_run=first_run),
        looking=facts.doctor is None,
        rows=[_row(line) for line in lines],
        checks=checks,
        said=f"{setup_rows.clock(said.at)}: {said.sentence}" if fresh else "",
    )


def _check(check: Check, by: str) -> SetupCheck:
    fix = "" if check.ok else check.fix
    return SetupCheck(name=check.name, ok=check.ok, detail=check.detail, fix=fix, by=by)


def _row(line: Line) -> SetupRow:
    return SetupRow(
        key=line.key,
        title=line.title,
        state=line.state,
        seen=line.seen,
        at=rfc3339(line.at),
        fix=line.fix,
        copy_lines=list(line.copy),
        notes=list(line.notes),
    )


def _worst(
    lines: Sequence[Line], checks: Sequence[SetupCheck], *, first_run: bool
) -> RowState:
    """What waits counts only in the first run: later nobody waits for it."""
    states = {line.state for line in lines}
    if RowState.WRONG in states or not all(check.ok for check in checks):
        return RowState.WRONG
    return RowState.WAITING if first_run else RowState.WELL


def _verdict(
    lines: Sequence[Line],
    checks: Sequence[SetupCheck],
    state: RowState,
    *,
    first_run: bool,
) -> str:
    wrong = sum(not check.ok for check in checks)
    if first_run:
        done = sum(line.state in (RowState.WELL, RowState.LOOK) for line in lines)
        needed = sum(line.state is not RowState.OPTIONAL for line in lines)
        broken = sum(line.state is RowState.WRONG for line in lines)
        troubles = f", {broken} to mend" if broken else ""
        return f"{done} of {needed} steps done{troubles}"
    if state is RowState.WELL:
        return "all well"
    if wrong:
        return f"{wrong} of {len(checks)} checks found something"
    return "the server is well; see what is marked below"


def _page(request: web.Request, service: Service, shape: Setup) -> html.Page:
    name = "Getting started" if shape.first_run else "Health"
    secrets = service.secrets()
    context = {
        "setup": shape,
        "name": name,
        "marks": MARKS,
        "bad": [check for check in shape.checks if not check.ok],
        "may_ping": bool(secrets.github_token or secrets.app_key)
        and service.settings.github.webhook,
        "needs_token": service.api_token is not None,
    }
    return html.Page(
        "setup.html",
        f"{MARKS[shape.state]} {name}",
        context,
        icon=ICONS[shape.state],
        events="/events?setup=1",
        live=shape.first_run or shape.looking,
    )


def _text(shape: Setup) -> str:
    name = "Getting started" if shape.first_run else "Health"
    return "\n".join(_lines(name, shape)) + "\n"


def _lines(name: str, shape: Setup) -> Iterator[str]:
    yield f"{MARKS[shape.state]} {name}: {shape.verdict}"
    if shape.said:
        yield from _wrapped("  ", shape.said)
    yield ""
    for row in shape.rows:
        yield from _wrapped(f"{MARKS[row.state]} ", f"{row.title}: {row.seen}")
        for note in row.notes:
            yield from _wrapped("    ", note)
        if row.fix:
            yield from _wrapped("  → ", row.fix)
        yield from (f"      {printable(line)}" for line in row.copy_lines)
    yield ""
    for check in shape.checks:
        mark = "✓" if check.ok else "✗"
        yield from _wrapped(f"{mark} ", f"{check.name}: {check.detail}")
        if check.fix:
            yield from _wrapped("  → ", check.fix)
    if shape.looking:
        yield "the doctor is still looking…"


def _wrapped(begin: str, text: str) -> list[str]:
    """Lines of 80 columns; words that are longer stay whole, to be copied."""
    return textwrap.wrap(
        printable(text),
        COLUMNS,
        initial_indent=begin,
        subsequent_indent=" " * len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/setup",
        show,
        "The first run step by step, then the health of everything",
        {200: Answer("steps and checks", (Setup,), text=True, page=True)},
        twin="/setup",
    ),
    Route(
        "POST",
        "/setup/ping",
        ping,
        "Have GitHub send a ping through its webhook",
        {
            200: Answer("what GitHub said", (Pinged,)),
            303: Answer("to a form: the page that says it"),
        },
    ),
)
