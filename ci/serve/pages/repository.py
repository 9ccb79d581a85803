"""One repository: its branches, its trend, its builds; badge, feed and monitor's XML."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from aiohttp import web
from pydantic import Field

from ci.adapters.host import now_ms
from ci.config import Settings
from ci.history import branch_states, builds, days
from ci.history.branch_states import BranchState
from ci.models import Build
from ci.serve import answers, html, shapes, text
from ci.serve.pages import badge, calendar, cctray, feed, front, grid
from ci.serve.parameters import NameField, Query, named, no_repository, query
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of
from ci.text import printable

RECENT = 20
PATH = "/repos/{owner:[^/.]+}/{repo:[^/]+}"


class RepositoryQuery(Query):
    branch: NameField = Field(
        None, description="a branch; the first of the repository when left out"
    )


class CctrayQuery(Query):
    branch: NameField = Field(None, description="only that branch, else all of them")


class RepositoryPage(shapes.Shape):
    """One repository, and the last builds on one of its branches."""

    repo: str
    url: str | None = Field(description="null: it is configured no longer")
    branch: str | None = Field(description="the branch of `builds`")
    branches: list[shapes.Branch]
    builds: list[shapes.Build] = Field(description="the newest first")
    grid: grid.Grid
    calendar: calendar.Calendar
    badge: str
    feed: str
    cctray: str


@dataclass(frozen=True)
class Known:
    """A repository by its configured name; `url` is None when it is configured no more."""

    name: str
    branches: Sequence[str]
    url: str | None = None


@dataclass(frozen=True)
class _Found:
    known: Known
    branch: str | None
    states: Sequence[BranchState]
    builds: Sequence[Build]
    grid: grid.Grid
    calendar: calendar.Calendar


async def show_repository(request: web.Request) -> web.Response:
    """`GET /repos/{owner}/{repo}`: its branches, and the builds of one of them."""
    service, asked = service_of(request), query(request, RepositoryQuery)
    name, suffix = _name_and_suffix(service.settings, request)
    found = await service.database.read(_read, service.settings, name, asked.branch)
    if found is None:
        raise no_repository(service.settings, name[:200])
    shape = _shape(service, found)
    if request.path.endswith(tuple(answers.SUFFIXES)) and not suffix:
        # The end of the path belongs to the name: only `Accept` is left to decide.
        request = request.clone(rel_url=request.rel_url.with_path("/repos"))
    return await html.respond(
        request, shape, lambda: _text(found), lambda: _page(service, found, shape)
    )


async def known(service: Service, request: web.Request) -> Known:
    """The repository of the path, configured or with builds; RequestError 404."""
    name = f"{request.match_info['owner']}/{request.match_info['repo']}"
    found = await service.database.read(_known, service.settings, name)
    if found is None:
        raise no_repository(service.settings, name[:200])
    return found


def address(name: str) -> str:
    """The path of a repository's page."""
    return f"/repos/{quote(name)}"


def _name_and_suffix(settings: Settings, request: web.Request) -> tuple[str, str]:
    """`O/N.json` is the twin of O/N, unless O/N.json alone is configured."""
    name = f"{request.match_info['owner']}/{request.match_info['repo']}"
    suffix = request.path.removeprefix(f"/repos/{name}")
    if suffix and named(settings, name) is None and named(settings, name + suffix):
        return name + suffix, ""
    return name, suffix


def _known(
    connection: sqlite3.Connection, settings: Settings, name: str
) -> Known | None:
    configured = named(settings, name)
    if configured is not None:
        return Known(configured.name, configured.branches, configured.url)
    if not builds.page(connection, repo=name, limit=1):
        return None
    return Known(name, branch_states.branches_seen(connection, name))


def _read(
    connection: sqlite3.Connection, settings: Settings, name: str, branch: str | None
) -> _Found | None:
    repository = _known(connection, settings, name)
    if repository is None:
        return None
    names = list(repository.branches)
    if branch is not None and branch not in names:
        names.append(branch)
    states = [
        branch_states.branch_state(connection, repository.name, each) for each in names
    ]
    chosen = branch or (names[0] if names else None)
    recent = builds.page(connection, repo=repository.name, branch=chosen, limit=RECENT)
    ordered = recent
    if chosen is not None:
        ordered = branch_states.in_order(connection, repository.name, chosen, recent)
    now = now_ms()
    ended = days.calendar(connection, repository.name, chosen, calendar.first_day(now))
    return _Found(
        repository,
        chosen,
        states,
        recent,
        grid.grid(grid.begun(ordered)),
        calendar.calendar(ended, now),
    )


def _shape(service: Service, found: _Found) -> RepositoryPage:
    here = service.settings.public_url + address(found.known.name)
    return RepositoryPage(
        repo=found.known.name,
        url=found.known.url,
        branch=found.branch,
        branches=[
            front.branch_shape(state, service.shape(state.last) if state.last else None)
            for state in found.states
        ],
        builds=service.shape_all(list(found.builds)),
        grid=found.grid,
        calendar=found.calendar,
        badge=f"{here}/badge.svg" + _asked(found),
        feed=f"{here}/feed.atom",
        cctray=f"{here}/cc.xml",
    )


def _asked(found: _Found) -> str:
    return f"?{urlencode({'branch': found.branch})}" if found.branch else ""


def _text(found: _Found) -> str:
    lines = [printable(found.known.name)]
    for state in found.states:
        verdict = text.headline(state.last, text.WIDTH - 2) if state.last else None
        where = printable(state.branch)
        lines.append("  " + (verdict or f"◌ {where}: nothing built yet"))
        told = [part for part in (front.since(state), front.rate(state)) if part]
        if told:
            lines.append("    " + " · ".join(told))
    for part in (grid.lines(found.grid), calendar.lines(found.calendar)):
        if told := list(part):
            lines += ["", *told]
    return "\n".join(lines) + "\n\n" + text.build_table(found.builds)


def _page(service: Service, found: _Found, shape: RepositoryPage) -> html.Page:
    name = found.known.name
    chosen = next((s for s in found.states if s.branch == found.branch), None)
    mark = ""
    if chosen is not None and chosen.last is not None:
        mark = text.SYMBOLS[chosen.last.state] + " "
    return html.Page(
        "repository.html",
        f"{mark}{name}" + (f" {found.branch}" if found.branch else ""),
        {
            "known": found.known,
            "chosen": chosen,
            "here": address(name),
            "shape": shape,
            "query": _asked(found),
            "rows": [
                (state, front.trend(state) if state.trend else None, front.rate(state))
                for state in found.states
            ],
            "builds": found.builds,
            "columns": _columns(found),
            "grid_rows": grid.rows(found.grid),
            "left_out": grid.left_out(found.grid),
            "calendar": calendar.picture(found.calendar, "Days and how builds ended"),
            "calendar_rows": calendar.rows(found.calendar),
            "calendar_legend": calendar.legend(),
            "markdown": (
                f"[![{badge.LABEL}]({shape.badge})]"
                f"({service.settings.public_url}{address(name)})"
            ),
        },
        icon=front.branch_icon(chosen) if chosen else "none",
        events=f"/events?{urlencode({'repo': name})}",
        live=any(not build.state.final for build in found.builds),
    )


def _columns(found: _Found) -> list[Build]:
    """The builds of the grid, in its order."""
    by_number = {build.number: build for build in found.builds}
    return [by_number[number] for number in found.grid.builds]


async def badge_svg(request: web.Request) -> web.Response:
    """`GET /repos/{owner}/{repo}/badge.svg`: how the branch stands, as a picture."""
    return await _badge(request, badge.svg_answer)


async def badge_json(request: web.Request) -> web.Response:
    """`GET /repos/{owner}/{repo}/badge.json`: the same, as shields.io's endpoint."""
    return await _badge(request, badge.json_answer)


async def _badge(request: web.Request, answer: badge.Dress) -> web.Response:
    service, asked = service_of(request), query(request, RepositoryQuery)
    repository = await known(service, request)
    branch = asked.branch or (repository.branches[0] if repository.branches else "")
    last = await service.database.read(builds.newest_finished, repository.name, branch)
    return answer(request, badge.of_branch(branch, last))


async def repository_feed(request: web.Request) -> web.Response:
    """`GET /repos/{owner}/{repo}/feed.atom`: one entry per finished build."""
    service, asked = service_of(request), query(request, feed.RepositoryFeedQuery)
    return await feed.of_repository(
        service, request, await known(service, request), asked
    )


async def repository_cctray(request: web.Request) -> web.Response:
    """`GET /repos/{owner}/{repo}/cc.xml`: its branches, for build monitors."""
    service, asked = service_of(request), query(request, CctrayQuery)
    repository = await known(service, request)
    branches = [asked.branch] if asked.branch else repository.branches
    return await cctray.of_branches(
        service, request, [(repository.name, branch) for branch in branches]
    )


_UNKNOWN = Answer("no such repository", (shapes.Error,))
_UNCHANGED = Answer("what the caller has is still so")

# The longer paths come first: a repository's name may have dots.
ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        PATH + "/badge.svg",
        badge_svg,
        "How a branch stands, as a picture",
        {
            200: Answer("the badge", media="image/svg+xml"),
            304: _UNCHANGED,
            404: _UNKNOWN,
        },
        query=RepositoryQuery,
    ),
    Route(
        "GET",
        PATH + "/badge.json",
        badge_json,
        "How a branch stands, as shields.io's endpoint",
        {200: Answer("the badge", (badge.Badge,)), 304: _UNCHANGED, 404: _UNKNOWN},
        query=RepositoryQuery,
    ),
    Route(
        "GET",
        PATH + "/feed.atom",
        repository_feed,
        "What has ended lately in one repository",
        {
            200: Answer("an Atom feed", media="application/atom+xml"),
            304: _UNCHANGED,
            404: _UNKNOWN,
        },
        query=feed.RepositoryFeedQuery,
    ),
    Route(
        "GET",
        PATH + "/cc.xml",
        repository_cctray,
        "How the branches of one repository stand, for build monitors (cctray)",
        {
            200: Answer("cctray's XML", media=cctray.MEDIA),
            304: _UNCHANGED,
            404: _UNKNOWN,
        },
        query=CctrayQuery,
    ),
    *feed.ROUTES,
    *cctray.ROUTES,
    Route(
        "GET",
        PATH,
        show_repository,
        "One repository: its branches, and the builds of one of them",
        {
            200: Answer("the repository", (RepositoryPage,), text=True, page=True),
            404: _UNKNOWN,
        },
        query=RepositoryQuery,
        twin=PATH,
    ),
)
