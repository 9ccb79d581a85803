"""How things are: `/build/status`, `/health`."""

from __future__ import annotations

import asyncio
import logging
import sqlite3

from aiohttp import web

from ci.adapters.host import now_ms
from ci.history import builds as history, missed
from ci.models import Build, Check, rfc3339
from ci.serve import shapes, text
from ci.serve.answers import either
from ci.serve.parameters import NoQuery, StatusQuery, configured, query
from ci.serve.service import Service, service_of

log = logging.getLogger(__name__)

CACHE_CHECK = "cache"
"""The name of the check that tells whether Harmonia answers."""
CHECK_SECONDS = 5.0


async def status(request: web.Request) -> web.Response:
    """`GET /build/status`: the whole server's queue, or that of `?repo=&branch=`.

    `last*` are of the first repository's first branch unless asked otherwise.
    """
    service, asked = service_of(request), query(request, StatusQuery)
    repository = configured(service.settings, asked.repo)
    branch = asked.branch or repository.branches[0]
    everything = asked.repo is None and asked.branch is None
    current, queue, last, tally = await service.database.read(
        _status, repository.name, branch, everything=everything
    )
    answer = shapes.Status(
        is_running=bool(current),
        last_start=rfc3339(last.started_at) if last else None,
        last_finish=rfc3339(last.finished_at) if last else None,
        last_status=shapes.last_status(last),
        last_commit=last.sha if last else None,
        queue=service.shape_all(queue),
        current=service.shape_all(current),
        last=service.shape(last) if last else None,
        deliveries=shapes.Deliveries(
            missed=tally.recent_missed, recovered=tally.recent_recovered
        ),
    )
    return either(
        request,
        answer,
        lambda: text.status(current, queue, last, service.settings),
    )


async def health(request: web.Request) -> web.Response:
    """`GET /health`: always 200 while the server runs; it reads no history."""
    query(request, NoQuery)
    checks = await found_by(service_of(request))
    answer = shapes.Health(
        status="healthy" if all(check.ok for check in checks) else "degraded",
        cache_running=any(check.ok for check in checks if check.name == CACHE_CHECK),
        checks=[check_shape(check) for check in checks],
    )
    return either(request, answer, lambda: text.checks(checks))


def check_shape(check: Check) -> shapes.Check:
    """What is well needs no mending."""
    fix = "" if check.ok else check.fix
    return shapes.Check(name=check.name, ok=check.ok, detail=check.detail, fix=fix)


async def found_by(service: Service, seconds: float = CHECK_SECONDS) -> list[Check]:
    """The checks; a check that breaks or hangs is itself a finding."""
    try:
        async with asyncio.timeout(seconds):
            return await service.checks()
    except TimeoutError:
        problem = f"the checks did not end within {seconds:g} s"
    except Exception as error:
        log.exception("the checks failed")
        problem = f"the checks themselves failed ({type(error).__name__})"
    return [Check("checks", False, problem, "look into the server's log")]


def _status(
    connection: sqlite3.Connection, repo: str, branch: str, *, everything: bool
) -> tuple[list[Build], list[Build], Build | None, missed.Tally]:
    scope = () if everything else (repo, branch)
    return (
        history.running(connection, *scope),
        history.queued(connection, *scope),
        history.newest_finished(connection, repo, branch),
        missed.tally(connection, now_ms()),
    )
