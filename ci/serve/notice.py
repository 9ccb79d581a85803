"""The middleware that notes who comes: with the client, or by a link on GitHub."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ci.adapters.host import now_ms
from ci.serve.guard import caller
from ci.serve.service import service_of

_BUILD = "/builds/{number}"
_CLIENT = re.compile(r"build-client/([0-9A-Za-z.+-]{1,40})")
GITHUB = "github.com"


@web.middleware
async def notice(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note who comes with the client; behind the guards: whom they refuse is no one."""
    client = _CLIENT.match(request.headers.get(hdrs.USER_AGENT, ""))
    if client is not None:
        service = service_of(request)
        name = caller(request, service.settings)
        if service.first_run.seen.note(name, client[1], now_ms()):
            service.wake()
    response = await handler(request)
    if from_github(request) and _is_build(request) and response.status == 200:
        service = service_of(request)
        if service.first_run.opened.note(now_ms()):
            service.wake()
    return response


def from_github(request: web.Request) -> bool:
    """Whether the browser says that a link on github.com itself led here."""
    try:
        whence = urlsplit(request.headers.get(hdrs.REFERER, ""))
    except ValueError:
        return False
    return whence.scheme == "https" and whence.netloc == GITHUB


def _is_build(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical == _BUILD
