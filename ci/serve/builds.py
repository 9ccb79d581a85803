"""Builds: a page of them, one, those of a commit."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from urllib.parse import urlencode

from aiohttp import hdrs, web

from ci.config import Settings
from ci.errors import RequestError
from ci.history import builds as history
from ci.models import Build, BuildState
from ci.serve import html, shapes, text
from ci.serve.answers import wanted
from ci.serve.parameters import (
    BuildsQuery,
    NoQuery,
    named,
    no_build,
    no_repository,
    query,
    sha_prefix,
)
from ci.serve.service import Service, service_of


async def list_builds(request: web.Request) -> web.Response:
    """`GET /builds`: newest number first, keyset by `before`.

    With `q` only so many builds are looked at for one answer: `next` goes on below them.
    """
    service, asked = service_of(request), query(request, BuildsQuery)
    repo = _repository(service.settings, asked.repo)
    found = await service.database.read(_page_of, asked, repo)
    if not found.builds and repo is not None and named(service.settings, repo) is None:
        raise no_repository(service.settings, repo)
    answer = shapes.Builds(
        builds=service.shape_all(found.builds),
        next=found.next,
        searched_down_to=found.searched_down_to,
    )
    return await html.respond(
        request,
        answer,
        lambda: text.build_table(found.builds) + _older(found),
        lambda: _list_page(service, asked, found),
    )


@dataclass(frozen=True)
class _Found:
    """One page of the list; `next` is where the older ones begin."""

    builds: list[Build]
    next: int | None
    searched_down_to: int | None = None


def _page_of(
    connection: sqlite3.Connection, asked: BuildsQuery, repo: str | None
) -> _Found:
    if asked.q is not None:
        found, rest, lowest = history.search(
            connection,
            asked.q,
            repo=repo,
            branch=asked.branch,
            state=asked.state,
            before=asked.before,
            limit=asked.limit,
        )
        return _Found(found, rest, lowest)
    found = history.page(
        connection,
        repo=repo,
        branch=asked.branch,
        state=asked.state,
        before=asked.before,
        limit=asked.limit + 1,
    )
    page = found[: asked.limit]
    return _Found(page, page[-1].number if len(found) > asked.limit else None)


def _older(found: _Found) -> str:
    """What a terminal needs to go on; the title keeps the last column."""
    lines = []
    if found.searched_down_to is not None:
        lines.append(f"searched down to #{found.searched_down_to}")
    if found.next is not None:
        lines.append(f"older: before={found.next}")
    return "".join(line + "\n" for line in lines)


def _list_page(service: Service, asked: BuildsQuery, found: _Found) -> html.Page:
    fields = {
        name: str(value)
        for name, value in asked.model_dump(exclude_defaults=True).items()
    }
    older = {**fields, "before": str(found.next)}
    newest = {name: value for name, value in fields.items() if name != "before"}
    return html.Page(
        "builds.html",
        "Builds",
        {
            "found": found,
            "fields": fields,
            "older": f"/builds?{urlencode(older)}",
            "newest": f"/builds?{urlencode(newest)}",
            "query": f"?{urlencode(fields)}" if fields else "",
            "searched": history.SEARCHED,
            "states": list(BuildState),
            "repositories": service.settings.repositories,
            "branches": sorted(
                {name for one in service.settings.repositories for name in one.branches}
            ),
        },
        events="" if asked.before else "/events",
        live=False,
    )


async def show_commit(request: web.Request) -> web.Response:
    """`GET /commits/{sha}`: every build whose SHA begins so.

    A browser is sent to the build where there is only one.
    """
    query(request, NoQuery)
    service, prefix = service_of(request), sha_prefix(request)
    found = await service.database.read(history.of_commit, prefix)
    if not found:
        raise RequestError(404, f"no build is of a commit {prefix}", {"sha": prefix})
    if len(found) == 1 and wanted(request, "json", html.FORMS) == "page":
        there = {
            hdrs.LOCATION: f"/builds/{found[0].number}",
            hdrs.VARY: hdrs.ACCEPT,
        }
        return web.Response(status=302, headers=there)
    return await html.respond(
        request,
        shapes.CommitBuilds(sha=prefix, builds=service.shape_all(found)),
        lambda: text.build_table(found),
        lambda: html.Page(
            "commits.html", f"Commit {prefix[:12]}", {"sha": prefix, "builds": found}
        ),
    )


async def find_build(service: Service, number: int) -> Build:
    """The build of that number; raises RequestError 404."""
    build = await service.database.read(history.get, number)
    if build is None:
        raise no_build(number)
    return build


def _repository(settings: Settings, name: str | None) -> str | None:
    """The name as configured; one that is configured no longer may still have builds."""
    found = None if name is None else named(settings, name)
    return found.name if found else name
