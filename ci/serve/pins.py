"""Pinning: a build and its results are kept until somebody lets go of them.

A pin protects what is there: the row, the logs, the roots that keep the outputs from the
garbage collector. It brings nothing back; what has gone already must be built again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from aiohttp import web

from ci.adapters.host import now_ms
from ci.errors import RequestError
from ci.history import builds, paths, pins
from ci.models import Build, BuildState
from ci.serve import forms
from ci.serve.actions import addressed, page_of
from ci.serve.answers import json_answer
from ci.serve.builds import find_build
from ci.serve.guard import caller
from ci.serve.parameters import no_build
from ci.serve.service import service_of


async def pin(request: web.Request) -> web.Response:
    """`POST /builds/{number}/pin`: 200, also when it is pinned already.

    409 when the build has not succeeded, or when its results have gone.
    """
    build = await addressed(request)
    service = service_of(request)
    asked_by = caller(request, service.settings)
    if not build.pinned:
        _must_have_succeeded(build)
        repository = await service.database.write(_pin, build.number, asked_by)
        # Looked for under the pin: what is there now stays.
        missing = await asyncio.to_thread(
            _missing, service.settings.state_dir, build, repository
        )
        if missing:
            await service.database.write(pins.unpin, build.number)
            raise _refused(build, f"has lost its results ({', '.join(missing)})")
    return await _answer(request, build.number)


async def unpin(request: web.Request) -> web.Response:
    """`POST /builds/{number}/unpin`: 200, also when it is not pinned."""
    build = await addressed(request)
    service = service_of(request)
    await service.database.write(pins.unpin, build.number)
    return await _answer(request, build.number)


async def _answer(request: web.Request, number: int) -> web.Response:
    service = service_of(request)
    service.wake()
    answer = json_answer(service.shape(await find_build(service, number)))
    return forms.see(request, answer, page_of(number))


def _pin(connection: sqlite3.Connection, number: int, asked_by: str) -> int:
    """Pin the build if that can be done at this moment; return its repository's id."""
    build = builds.get(connection, number)
    if build is None:
        raise no_build(number)
    _must_have_succeeded(build)
    return pins.pin(connection, number, by=asked_by, at=now_ms())


def _must_have_succeeded(build: Build) -> None:
    if build.state is not BuildState.SUCCEEDED:
        raise _refused(build, f"is {build.state}; only what succeeded can be pinned")


def _refused(build: Build, fact: str) -> RequestError:
    return RequestError(
        409,
        f"build {build.number} {fact}: retry it, then pin it",
        {"build": build.number, "state": str(build.state)},
    )


def _missing(state_dir: Path, build: Build, repository: int) -> list[str]:
    """The targets whose results are no longer rooted, or no longer in the store."""
    missing = []
    for target in build.targets:
        root = paths.root_path(
            state_dir, repository, build.branch, target.name, build.number
        )
        # A root is a link into the store; it exists when what it leads to does.
        if not all((root / output).exists() for output in target.outputs or {}):
            missing.append(target.name)
    return missing
