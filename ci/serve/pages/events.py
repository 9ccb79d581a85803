"""News for open pages, as server-sent events."""

from __future__ import annotations

import logging
import socket
from typing import Annotated

from aiohttp import hdrs, web
from aiohttp_sse import EventSourceResponse
from pydantic import Field, StringConstraints

from ci.errors import RequestError
from ci.history import builds, events as history
from ci.models import Build, BuildState
from ci.serve import logs, shapes
from ci.serve.builds import find_build
from ci.serve.pages.event_stream import Given, Place, Stream, Topic
from ci.serve.parameters import (
    Bytes,
    Flag,
    Name,
    Number,
    Query,
    build_number,
    named,
    no_repository,
    query,
)
from ci.serve.route import NUMBER, Answer, Route
from ci.serve.service import Service, service_of

MEDIA = "text/event-stream"
# Of the kernel, for a reader who takes nothing; it would keep megabytes.
SEND_BUFFER = 64 * 1024
NEVER = 1e9

log = logging.getLogger(__name__)

Last = Annotated[str, StringConstraints(max_length=60)]


class ComingBack(Query):
    last: Last | None = Field(
        None, description="the id of the last event that came, as Last-Event-ID has it"
    )


class EventsQuery(ComingBack):
    build: Number | None = Field(None, description="a build: only its events")
    repo: Name | None = Field(None, description="a repository: only its events")
    setup: Flag = Field(False, description="1 to hear of the server's checks, too")


class BuildEventsQuery(ComingBack):
    log: Flag = Field(False, description="1 to get the lines of the log, too")
    attempt: Number | None = Field(
        None, description="whose log; the last one, or the one to come"
    )
    offset: Bytes = Field(
        0, description="the byte at which the first wanted line of the log begins"
    )
    target: Name | None = Field(
        None, description="a target of the build: only lines of its own derivation"
    )


async def all_events(request: web.Request) -> web.StreamResponse:
    """`?build=` and `?repo=` narrow them; `?setup=1` adds changes of the checks."""
    service, asked = service_of(request), query(request, EventsQuery)
    topic = Topic(
        await find_build(service, asked.build) if asked.build else None,
        await _repository(service, asked.repo),
        asked.setup,
    )
    return await _serve(request, topic, _given(request, asked))


async def build_events(request: web.Request) -> web.StreamResponse:
    """The same as `/events?build=N`; with `?log=1` the log's new lines as HTML, too."""
    service, asked = service_of(request), query(request, BuildEventsQuery)
    build = await find_build(service, build_number(request))
    given = _given(request, asked)
    place = await _place(service, build, asked, given) if asked.log else None
    return await _serve(request, Topic(build, place=place), given)


def _given(request: web.Request, asked: ComingBack) -> Given | str | None:
    """What the page comes back with; a str when it is nothing that we have given."""
    text = request.headers.get("Last-Event-ID") or asked.last
    return text and (Given.parse(text) or text)


async def _repository(service: Service, name: str | None) -> str | None:
    """The name as configured, or as the history has it; RequestError 404."""
    if name is None:
        return None
    if found := named(service.settings, name):
        return found.name
    if await service.database.read(builds.page, repo=name, limit=1):
        return name
    raise no_repository(service.settings, name)


async def _place(
    service: Service, build: Build, asked: BuildEventsQuery, given: Given | str | None
) -> Place:
    """Where in which log the page is; RequestError 404, 410 and 416."""
    attempt, offset = asked.attempt, asked.offset
    if isinstance(given, Given) and given.attempt and given.offset is not None:
        attempt, offset = given.attempt, given.offset
    if asked.target is not None:
        logs.find_target(build, asked.target)
    if attempt is None and build.state is BuildState.QUEUED:
        attempt = build.attempt + 1
    if attempt == build.attempt + 1 and build.state is BuildState.QUEUED:
        return Place(attempt, 0, asked.target)
    found = await logs.find_log(service, build, attempt, follow=False)
    if offset > found.size:
        raise RequestError(
            416,
            f"the log ends at byte {found.size}, before offset {offset}",
            {"offset": offset, "size": found.size},
        )
    return Place(found.attempt.number, offset, asked.target)


async def _serve(
    request: web.Request, topic: Topic, given: Given | str | None
) -> web.StreamResponse:
    if request.method == hdrs.METH_HEAD:
        return web.Response(content_type=MEDIA, charset="utf-8")
    service = service_of(request)
    after = given.change if isinstance(given, Given) else None
    if after is not None and not await service.database.read(history.can_follow, after):
        after = None
    lost = given is not None and after is None
    async with service.news.listen(topic.wants, checks=topic.checks) as listener:
        # Its own signs of life are comments, which no script can hear: `beat` is ours.
        response = EventSourceResponse(sep="\n", ping_interval=NEVER)
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        response.headers[hdrs.CONNECTION] = "close"
        response.force_close()
        await response.prepare(request)
        _keep_little(request)
        try:
            async with response:
                stream = Stream(service, topic, response)
                await stream.run(listener, after, lost=lost)
        except (TimeoutError, OSError) as error:
            log.info("%s: cut off: %s", request.path, str(error) or "stalled")
            if request.transport is not None:
                request.transport.abort()
    return response


def _keep_little(request: web.Request) -> None:
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


_GONE = Answer("no such build or repository", (shapes.Error,))
_NEWS = Answer("events, until one side closes", media=MEDIA)

ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/events",
        all_events,
        "What changes, as it changes: server-sent events",
        {200: _NEWS, 404: _GONE},
        query=EventsQuery,
    ),
    Route(
        "GET",
        NUMBER + "/events",
        build_events,
        "What changes of one build, and its log: server-sent events",
        {
            200: _NEWS,
            404: Answer("no such build, attempt or target", (shapes.Error,)),
            410: Answer("the log was removed", (shapes.Error,)),
            416: Answer("the offset is beyond the end", (shapes.Error,)),
        },
        query=BuildEventsQuery,
    ),
)
