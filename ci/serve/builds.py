"""Builds: a page of them, one, those of a commit."""

from __future__ import annotations

from aiohttp import web

from ci.config import Settings
from ci.errors import RequestError
from ci.history import builds as history
from ci.models import Build
from ci.serve import shapes, text
from ci.serve.answers import either
from ci.serve.parameters import (
    BuildsQuery,
    NoQuery,
    build_number,
    named,
    no_build,
    no_repository,
    query,
    sha_prefix,
)
from ci.serve.service import Service, service_of


async def list_builds(request: web.Request) -> web.Response:
    """`GET /builds`: newest number first, keyset by `before`."""
    service, asked = service_of(request), query(request, BuildsQuery)
    repo = _repository(service.settings, asked.repo)
    found = await service.database.read(
        history.page,
        repo=repo,
        branch=asked.branch,
        state=asked.state,
        before=asked.before,
        limit=asked.limit + 1,
    )
    if not found and repo is not None and named(service.settings, repo) is None:
        raise no_repository(service.settings, repo)
    page = found[: asked.limit]
    answer = shapes.Builds(
        builds=service.shape_all(page),
        next=page[-1].number if len(found) > asked.limit else None,
    )
    return either(request, answer, lambda: text.build_table(page))


async def show_build(request: web.Request) -> web.Response:
    """`GET /builds/{number}`."""
    query(request, NoQuery)
    service = service_of(request)
    build = await find_build(service, build_number(request))
    return either(
        request, service.shape(build), lambda: text.build(build, service.settings)
    )


async def show_commit(request: web.Request) -> web.Response:
    """`GET /commits/{sha}`: every build whose SHA begins so."""
    query(request, NoQuery)
    service, prefix = service_of(request), sha_prefix(request)
    found = await service.database.read(history.of_commit, prefix)
    if not found:
        raise RequestError(404, f"no build is of a commit {prefix}", {"sha": prefix})
    answer = shapes.CommitBuilds(sha=prefix, builds=service.shape_all(found))
    return either(request, answer, lambda: text.build_table(found))


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
