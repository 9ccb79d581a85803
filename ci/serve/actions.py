"""What people ask the server to do: trigger, cancel, retry.

A request is a row. The handler writes it, rings the bell, and waits a little for the
department concerned to answer the row; whoever is too slow to be waited for acts on the
row all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ci.adapters.host import now_ms
from ci.errors import RequestError
from ci.history import requests
from ci.models import Build, RequestKind
from ci.serve import forms, shapes
from ci.serve.answers import json_answer
from ci.serve.builds import find_build
from ci.serve.guard import caller
from ci.serve.parameters import (
    NoQuery,
    build_number,
    configured,
    no_body,
    query,
    trigger_body,
)
from ci.serve.service import Service, service_of

PATIENCE = 3.0
"""Seconds that an answer waits for the outcome of its request."""


async def trigger(request: web.Request) -> web.Response:
    """`POST /build/trigger`: 202 triggered, 200 already running or built.

    To a form 303, to the build's page.
    """
    query(request, NoQuery)
    service, body = service_of(request), await _wishes(request)
    configured(service.settings, body.get("repo"))
    number = await _ask(request, RequestKind.TRIGGER, body=body)
    outcome = await _outcome(service, number)
    if outcome is None:
        answer = shapes.TriggerAnswer(
            status="triggered",
            message=_recorded(number),
            build=None,
            request=number,
        )
        return forms.see(request, json_answer(answer, 202), "/")
    build = await find_build(service, outcome["build"])
    new = outcome["status"] == "triggered"
    answer = shapes.TriggerAnswer(
        status="triggered" if new else "already_running",
        message=outcome["message"],
        build=service.shape(build),
        request=number,
    )
    told = json_answer(answer, 202 if new else 200)
    return forms.see(request, told, page_of(build.number))


async def cancel(request: web.Request) -> web.Response:
    """`POST /builds/{number}/cancel`: 202, or 409 when the build has ended."""
    build = await addressed(request)
    if build.state.final:
        raise _conflict(build, "has ended already", "there is nothing to cancel")
    return await _change(request, RequestKind.CANCEL, build)


async def retry(request: web.Request) -> web.Response:
    """`POST /builds/{number}/retry`: 202, or 409 while the build is not over."""
    build = await addressed(request)
    if not build.state.final:
        raise _conflict(build, "is not over", "cancel it first, or wait")
    return await _change(request, RequestKind.RETRY, build)


async def addressed(request: web.Request) -> Build:
    """The build that a POST without query and body is about."""
    query(request, NoQuery)
    if forms.sent(request):
        await forms.fields(request, ())
    else:
        await no_body(request)
    return await find_build(service_of(request), build_number(request))


def page_of(number: int) -> str:
    """Where a browser goes after it has changed the build."""
    return f"/builds/{number}"


async def _wishes(request: web.Request) -> dict[str, Any]:
    if forms.sent(request):
        return await forms.trigger_wishes(request)
    return await trigger_body(request)


async def _change(
    request: web.Request, kind: RequestKind, build: Build
) -> web.Response:
    service = service_of(request)
    number = await _ask(request, kind, build=build.number)
    if await _outcome(service, number) is None:
        answer: shapes.Shape = shapes.Recorded(
            message=_recorded(number), build=None, request=number
        )
    else:
        answer = service.shape(await find_build(service, build.number))
    return forms.see(request, json_answer(answer, 202), page_of(build.number))


async def _ask(
    request: web.Request,
    kind: RequestKind,
    *,
    build: int | None = None,
    body: Mapping[str, Any] | None = None,
) -> int:
    service = service_of(request)
    number = await service.database.write(
        requests.ask,
        kind,
        asked_by=caller(request, service.settings),
        at=now_ms(),
        build=build,
        body=body,
    )
    service.wake()
    return number


async def _outcome(service: Service, number: int) -> dict[str, Any] | None:
    """The answer to the request, None when that takes too long; RequestError: refused."""
    deadline = time.monotonic() + service.patience
    while True:
        seen = service.wake.count
        outcome = await service.database.read(requests.outcome, number)
        if outcome is not None:
            if "error" in outcome:
                raise RequestError(
                    outcome.get("status_code", 409),
                    outcome["error"],
                    outcome.get("detail"),
                )
            return outcome
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        await service.wake.wait(seen, left)


def _recorded(number: int) -> str:
    return f"request {number} is recorded; the server acts on it as soon as it can"


def _conflict(build: Build, fact: str, advice: str) -> RequestError:
    return RequestError(
        409,
        f"build {build.number} {fact} ({build.state}); {advice}",
        {"build": build.number, "state": str(build.state)},
    )
