"""What machines ask about the server itself: client files, metrics, OpenAPI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from aiohttp import hdrs, web

from ci.adapters.metrics import CONTENT_TYPE
from ci.config import Settings
from ci.config.units import is_loopback
from ci.history import builds, outbox
from ci.serve import shapes
from ci.serve.answers import json_answer, text_answer
from ci.serve.guard import host_name
from ci.serve.parameters import NoQuery, query
from ci.serve.service import service_of

OPENAPI: web.AppKey[Callable[[], bytes]] = web.AppKey("openapi")


async def client_json(request: web.Request) -> web.Response:
    """`GET /client.json`: what a new machine needs."""
    query(request, NoQuery)
    return json_answer(client(service_of(request).settings))


async def client_toml(request: web.Request) -> web.Response:
    """`GET /client.toml`: the same as a configuration file of the client."""
    query(request, NoQuery)
    return text_answer(as_toml(client(service_of(request).settings)))


async def metrics(request: web.Request) -> web.Response:
    """`GET /metrics`, for Prometheus."""
    query(request, NoQuery)
    service = service_of(request)
    body = await asyncio.to_thread(
        service.metrics.exposition,
        builds=await service.database.read(builds.counts),
        backlog=await service.database.read(outbox.backlog),
        followers=service.watches.readers,
    )
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})


async def openapi_json(request: web.Request) -> web.Response:
    """`GET /openapi.json`: this interface, for machines."""
    query(request, NoQuery)
    document = await asyncio.to_thread(request.app[OPENAPI])
    return web.Response(body=document, content_type="application/json")


def client(settings: Settings) -> shapes.Client:
    """The addresses as other machines reach them."""
    cache = None
    if settings.cache is not None:
        cache = shapes.Cache(
            url=seen_from_outside(settings.cache.url, settings.public_url),
            public_key=settings.cache.public_key,
        )
    return shapes.Client(
        server=settings.public_url,
        cache=cache,
        repositories=[
            shapes.Repository(
                name=repository.name,
                url=repository.url,
                branches=list(repository.branches),
            )
            for repository in settings.repositories
        ],
    )


def seen_from_outside(url: str, public_url: str) -> str:
    """`url` with the public host in place of a loopback one: the cache is our neighbour."""
    parts = urlsplit(url)
    if not is_loopback(parts.hostname or ""):
        return url
    public = host_name(urlsplit(public_url).netloc) or "localhost"
    port = f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=public + port))


def as_toml(answer: shapes.Client) -> str:
    """The same keys as the JSON; an absent cache is left out, TOML has no null."""
    lines = [f"server = {_quoted(answer.server)}"]
    if answer.cache is not None:
        lines += ["", "[cache]"]
        lines += [f"url = {_quoted(answer.cache.url)}"]
        lines += [f"public_key = {_quoted(answer.cache.public_key)}"]
    for repository in answer.repositories:
        branches = ", ".join(_quoted(branch) for branch in repository.branches)
        lines += ["", "[[repositories]]"]
        lines += [f"name = {_quoted(repository.name)}"]
        lines += [f"url = {_quoted(repository.url)}"]
        lines += [f"branches = [{branches}]"]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
