"""The middleware that notes which machines come with the client."""

from __future__ import annotations

import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from ci.adapters.host import now_ms
from ci.serve.guard import caller
from ci.serve.service import service_of

_CLIENT = re.compile(r"build-client/([0-9A-Za-z.+-]{1,40})")


@web.middleware
async def notice(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note who comes with the client; behind the guards: whom they refuse is no one."""
    client = _CLIENT.match(request.headers.get(hdrs.USER_AGENT, ""))
    if client is not None:
        service = service_of(request)
        name = caller(request, service.settings)
        if service.first_run.seen.note(name, client[1], now_ms()):
            service.wake()
    return await handler(request)
