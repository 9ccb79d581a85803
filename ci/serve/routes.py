"""The route table: what is registered, and what `/openapi.json` says, in one place."""

from __future__ import annotations

from ci.serve import (
    about,
    actions,
    assets,
    builds,
    logs,
    parameters,
    pins,
    shapes,
    status,
)
from ci.serve.pages import (
    build,
    events,
    help,
    home,
    log,
    repository,
    setup,
    stats,
    timeline,
)
from ci.serve.route import NUMBER, Answer, Route

_NO_BUILD = Answer("no such build", (shapes.Error,))
_CHANGED = Answer("done, or recorded", (shapes.Build, shapes.Recorded))
_TO_THE_PAGE = Answer(
    "to a form of a page: see that page", headers={"Location": "its path"}
)
_LOG_HEADERS = {
    "X-Build-State": "the state of the build",
    "X-Log-Attempt": "the attempt whose log this is",
    "X-Log-Offset": "where in the log, in bytes, the body begins",
    "X-Log-Size": "the size of the log, in bytes, when the answer began",
}

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/",
        home.overview,
        "What runs, what waits and why, each branch, the last builds",
        {200: Answer("the overview", (shapes.Overview,), text=True, page=True)},
        query=home.HomeQuery,
        twin="/index",
    ),
    Route(
        "POST",
        "/build/trigger",
        actions.trigger,
        "Build a commit now",
        {
            200: Answer("running or built already", (shapes.TriggerAnswer,)),
            202: Answer("queued, or recorded", (shapes.TriggerAnswer,)),
            303: _TO_THE_PAGE,
            404: Answer("no such repository, branch or commit", (shapes.Error,)),
            409: Answer("it cannot be built now", (shapes.Error,)),
            502: Answer("the repository's remote does not answer", (shapes.Error,)),
        },
        body=shapes.TriggerBody,
    ),
    Route(
        "GET",
        "/build/status",
        status.status,
        "What runs, what waits, how the newest finished build ended",
        {
            200: Answer("the status", (shapes.Status,), text=True),
            404: Answer("no such repository", (shapes.Error,)),
        },
        query=parameters.StatusQuery,
    ),
    Route(
        "GET",
        "/build/logs",
        logs.last_lines,
        "The last lines of the running build's log, or of the last build's",
        {
            200: Answer("the lines", (shapes.Logs,), text=True),
            404: _NO_BUILD,
            410: Answer("the log was removed", (shapes.Error,)),
        },
        query=parameters.LogsQuery,
    ),
    Route(
        "GET",
        "/health",
        status.health,
        "Whether the service and what it leans on are well",
        {200: Answer("always, while the server runs", (shapes.Health,), text=True)},
    ),
    Route(
        "GET",
        "/builds",
        builds.list_builds,
        "Builds, newest first",
        {
            200: Answer("a page of builds", (shapes.Builds,), text=True, page=True),
            404: Answer("no such repository", (shapes.Error,)),
        },
        query=parameters.BuildsQuery,
        twin="/builds",
    ),
    *build.ROUTES,
    Route(
        "GET",
        NUMBER + "/log",
        log.show_log,
        "The log of a build, byte for byte; as a page; its lines as JSON",
        {
            200: Answer(
                "the log",
                (log.LogLines,),
                text=True,
                page=True,
                headers=_LOG_HEADERS,
            ),
            404: Answer("no such build, attempt or target", (shapes.Error,)),
            410: Answer("the log was removed", (shapes.Error,)),
            416: Answer("the offset is beyond the end", (shapes.Error,)),
        },
        query=log.LogPageQuery,
        twin=NUMBER + "/log",
    ),
    Route(
        "POST",
        NUMBER + "/cancel",
        actions.cancel,
        "Cancel a build that waits or runs",
        {
            202: _CHANGED,
            303: _TO_THE_PAGE,
            404: _NO_BUILD,
            409: Answer("the build has ended", (shapes.Error,)),
        },
    ),
    Route(
        "POST",
        NUMBER + "/retry",
        actions.retry,
        "Build again what has ended",
        {
            202: _CHANGED,
            303: _TO_THE_PAGE,
            404: _NO_BUILD,
            409: Answer("the build is not over", (shapes.Error,)),
        },
    ),
    Route(
        "POST",
        NUMBER + "/pin",
        pins.pin,
        "Keep a build and its results until it is unpinned",
        {
            200: Answer("it is pinned", (shapes.Build,)),
            303: _TO_THE_PAGE,
            404: _NO_BUILD,
            409: Answer("not succeeded, or its results are gone", (shapes.Error,)),
        },
    ),
    Route(
        "POST",
        NUMBER + "/unpin",
        pins.unpin,
        "Let go of a build",
        {
            200: Answer("it is not pinned", (shapes.Build,)),
            303: _TO_THE_PAGE,
            404: _NO_BUILD,
        },
    ),
    Route(
        "GET",
        "/commits/{sha:[^/.]+}",
        builds.show_commit,
        "The builds of a commit, by its SHA or the first 7 or more digits",
        {
            200: Answer("the builds", (shapes.CommitBuilds,), text=True, page=True),
            302: Answer("a browser: to the build, where there is only one"),
            404: Answer("no build of such a commit", (shapes.Error,)),
        },
        twin="/commits/{sha:[^/.]+}",
    ),
    Route(
        "GET",
        "/client.json",
        about.client_json,
        "What a new machine needs to know",
        {200: Answer("addresses, key, repositories", (shapes.Client,))},
    ),
    Route(
        "GET",
        "/client.toml",
        about.client_toml,
        "The same as the client's configuration file",
        {200: Answer("TOML", text=True)},
    ),
    Route(
        "GET",
        "/metrics",
        about.metrics,
        "Counters for Prometheus",
        {200: Answer("Prometheus' text format", text=True)},
    ),
    Route(
        "GET",
        "/openapi.json",
        about.openapi_json,
        "This interface, for machines",
        {200: Answer("an OpenAPI 3.1 document", (shapes.Document,))},
    ),
    *assets.ROUTES,
    *timeline.ROUTES,
    *events.ROUTES,
    *repository.ROUTES,
    *stats.ROUTES,
    *setup.ROUTES,
    *help.ROUTES,
)
