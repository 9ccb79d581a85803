"""`/`: what runs, what waits and why, which branch is broken since when, the last builds."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace

from aiohttp import web
from pydantic import Field

from ci.adapters.host import now_ms
from ci.models import BuildState, Check, human_seconds
from ci.serve import html, shapes, text
from ci.serve.pages import front
from ci.serve.pages.build_facts import held
from ci.serve.pages.front import Front
from ci.serve.parameters import Flag, Query, query
from ci.serve.service import Service, service_of
from ci.serve.status import check_shape, found_by
from ci.text import printable

MORE = (
    "more: /builds /builds/N /builds/N/log /repos/OWNER/NAME /stats /setup /help\n"
    "      /build/status /health /openapi.json; in colour: /?color=1\n"
)


class HomeQuery(Query):
    color: Flag = Field(
        False, description="1 for colours of a terminal in the text, else 0"
    )


async def overview(request: web.Request) -> web.Response:
    """`GET /`: what runs, what waits and why, each branch, the last builds."""
    asked, service = query(request, HomeQuery), service_of(request)
    now = now_ms()
    found = await service.database.read(front.read_front, service.settings, now)
    if found.queue:
        found = replace(found, waits=_waits(service, found, now))
    trouble = [check for check in await found_by(service) if not check.ok]
    found = replace(found, trouble=trouble)
    return await html.respond(
        request,
        _shape(service, found, now),
        lambda: _text(service.version, found, now, colour=asked.color),
        lambda: _page(service, found, now),
        default="text",
    )


def _shape(service: Service, found: Front, now: int) -> shapes.Overview:
    return shapes.Overview(
        version=service.version,
        current=service.shape_all(list(found.current)),
        queue=service.shape_all(list(found.queue)),
        branches=[
            front.branch_shape(state, service.shape(state.last) if state.last else None)
            for state in found.branches
        ],
        builds=service.shape_all(list(found.recent)),
        running=[_running(found, number, now) for number in range(len(found.current))],
        waits=found.waits or None,
        trouble=[check_shape(check) for check in found.trouble],
    )


def _running(found: Front, index: int, now: int) -> shapes.Running:
    build = found.current[index]
    far = front.progress(build, found.typical[build.number], now)
    return shapes.Running(
        number=build.number,
        elapsed_seconds=round(far.elapsed, 3),
        expected_seconds=shapes.rounded(far.typical),
        done=far.done,
        total=far.total,
        unit=far.unit,
    )


def _text(version: str, found: Front, now: int, *, colour: bool) -> str:
    """The first page for a terminal of 80 columns."""
    lines = [f"build-server {version}: {_counts(found)}"]
    for build in found.current:
        far = front.progress(build, found.typical[build.number], now)
        lines += ["", text.headline(build, text.WIDTH), f"  {far.words}"]
        if far.doing:
            lines.append(f"  {printable(far.doing)}")
    if found.trouble:
        lines += ["", *_trouble(found.trouble)]
    if found.waits:
        lines += ["", f"the queue waits: {printable(found.waits)}"]
    lines.append("")
    for state in found.branches:
        lines.append(f"{printable(state.repo)} {printable(state.branch)}")
        verdict = text.headline(state.last, text.WIDTH - 2) if state.last else None
        lines.append("  " + (verdict or "◌ nothing built yet"))
        told = [part for part in (front.since(state), front.rate(state)) if part]
        if told:
            lines.append("    " + " · ".join(told))
    table = text.build_table(found.recent, text.BRANCH_WIDTH)
    lines += ["", *(table if found.recent else text.NO_BUILD).splitlines(), ""]
    whole = "\n".join(text.cut(line, text.WIDTH) for line in lines) + "\n" + MORE
    return text.coloured(whole) if colour else whole


def _trouble(checks: Sequence[Check]) -> Iterator[str]:
    for line in text.checks(checks).splitlines():
        yield from textwrap.wrap(line, text.WIDTH, subsequent_indent="    ")


def _page(service: Service, found: Front, now: int) -> html.Page:
    verdict, stands = _verdict(found)
    title, icon = _title(found)
    return html.Page(
        "home.html",
        title,
        {
            "front": found,
            "verdict": verdict,
            "stands": stands,
            "counts": _counts(found),
            "running": [
                (build, front.progress(build, found.typical[build.number], now))
                for build in found.current
            ],
            "branches": [
                (state, front.trend(state) if state.trend else None, front.rate(state))
                for state in found.branches
            ],
            "several": len(service.settings.repositories) > 1,
            "asks_token": service.api_token is not None,
            "repositories": service.settings.repositories,
            "server": service.settings.public_url,
        },
        icon=icon,
        events="/events?setup=1",
        live=bool(found.current or found.queue),
    )


def _verdict(found: Front) -> tuple[str, BuildState | None]:
    """How the branches stand, whatever runs, and the state that has this colour."""
    broken = found.broken
    if len(broken) == 1:
        words = f"✗ {broken[0].repo} {broken[0].branch} is broken"
        return words, BuildState.FAILED
    if broken:
        return f"✗ {len(broken)} branches are broken", BuildState.FAILED
    if any(state.last for state in found.branches):
        return "✓ Nothing is broken", BuildState.SUCCEEDED
    return "Nothing built yet", None


def _title(found: Front) -> tuple[str, str]:
    """Title and icon of the tab: what is broken matters more than what runs."""
    verdict, stands = _verdict(found)
    if stands is BuildState.FAILED:
        return verdict, "bad"
    if found.current:
        return f"● {len(found.current)} running", "run"
    if found.queue:
        return f"◌ {len(found.queue)} queued", "wait"
    return verdict, "ok" if stands else "none"


def _counts(found: Front) -> str:
    more = "+" if len(found.queue) == front.RECENT else ""
    return f"{len(found.current)} running, {len(found.queue)}{more} queued"


def _waits(service: Service, found: Front, now: int) -> str:
    """Why nothing more is begun at this moment; "" when something is about to."""
    if reason := held(service):
        return reason
    most = service.settings.build.parallel
    if len(found.current) >= most:
        return f"no more than build.parallel = {most} run at once"
    if found.retry_at is not None:
        left = human_seconds((found.retry_at - now) / 1000)
        return f"the next retry is due in {left}"
    return ""
