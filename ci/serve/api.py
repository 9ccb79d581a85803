"""The private application: guards, routes and the end of streams, put together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from aiohttp import web

from ci.adapters.logs import LogHub
from ci.adapters.metrics import Metrics
from ci.config import Secrets, Settings
from ci.history.database import Database
from ci.models import Check
from ci.serve import actions, guard, notice, openapi, outermost
from ci.serve.about import OPENAPI
from ci.serve.answers import add_headers
from ci.serve.follow import Watches
from ci.serve.news import News
from ci.serve.pages import setup
from ci.serve.parameters import MAX_BODY
from ci.serve.routes import ROUTES
from ci.serve.service import SERVICE, Checks, FirstRun, Service
from ci.wake import Wake


def private_application(
    *,
    settings: Settings,
    secrets: Callable[[], Secrets],
    database: Database,
    wake: Wake,
    hub: LogHub,
    metrics: Metrics,
    checks: Checks,
    version: str,
    first_run: FirstRun | None = None,
    waits: Callable[[], str] = lambda: "",
    patience: float = actions.PATIENCE,
) -> web.Application:
    """The application behind `listen.private`; `checks` is asked by `/health`.

    `waits` says why no build may begin now, "" when one may.
    `secrets` is asked at each request, so that a new API token needs no restart.
    `patience` is how many seconds a POST waits for the outcome of what it asks.

    Give its runner `handler_cancellation=True`: a reader who leaves then frees what
    was kept for him at once.
    """
    application = web.Application(
        middlewares=(
            outermost.count,
            outermost.dress_errors,
            outermost.shape_errors,
            guard.refuse_funnel,
            guard.allow_hosts(settings),
            guard.refuse_cross_site,
            guard.refuse_encoded,
            guard.require_token,
            notice.notice,
        ),
        client_max_size=MAX_BODY,
    )
    application[SERVICE] = Service(
        settings=settings,
        secrets=secrets,
        database=database,
        wake=wake,
        watches=Watches(database, wake, hub),
        news=News(database, wake, partial(_findings, application)),
        metrics=metrics,
        checks=checks,
        version=version,
        first_run=first_run or FirstRun(),
        waits=waits,
        patience=patience,
    )
    # Made when first asked for: few ask, and it is 1.6 MiB of memory.
    document: Callable[[], bytes] = cache(partial(openapi.document, ROUTES, version))
    application[OPENAPI] = document
    _add_routes(application)
    application.on_response_prepare.append(add_headers)
    application.on_startup.append(_count_streams)
    application.on_shutdown.append(_end_streams)
    return application


def _add_routes(application: web.Application) -> None:
    for route in ROUTES:
        for path in route.paths:
            application.router.add_route(route.method, path, route.handler)
            if route.method == "GET":
                application.router.add_route("HEAD", path, route.handler)


async def _findings(application: web.Application) -> list[Check]:
    """What /setup shows, whose open pages are told when it changes."""
    return await setup.findings(application[SERVICE])


async def _end_streams(application: web.Application) -> None:
    """Cut off who follows a log: the reader sees that it was not the end."""
    application[SERVICE].watches.stop()
    application[SERVICE].news.stop()


async def _count_streams(application: web.Application) -> None:
    service = application[SERVICE]
    service.metrics.watch(
        "event_streams",
        "Pages that listen to news.",
        lambda: len(service.news.listeners),
    )
