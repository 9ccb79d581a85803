"""A server of an earlier version: today's, without what it has learnt to tell since."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import ClientSession, web

from ci.client.as_json import AROUND

NOT_KNOWN = {"times"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def without_news(request: web.Request) -> web.StreamResponse:
    """What a server says that has no event stream."""
    return refusal(404, "no such path")


def refusal(status: int, sentence: str) -> web.Response:
    said = {"error": sentence, "status": status, "detail": {}}
    return web.json_response(said, status=status)


@dataclass
class Older:
    """What it is asked next is refused, `failures` times."""

    url: str = ""
    looks: int = 0
    failures: int = 0


@asynccontextmanager
async def older(url: str, news: Handler = without_news) -> AsyncIterator[str]:
    """The address of such a server in front of that at `url`."""
    async with in_front(url, news) as it:
        yield it.url


@asynccontextmanager
async def in_front(url: str, news: Handler) -> AsyncIterator[Older]:
    """The same; `news` answers who asks for a build's event stream."""
    it = Older()
    async with ClientSession() as client:

        async def forward(request: web.Request) -> web.StreamResponse:
            if request.path.endswith("/events"):
                return await news(request)
            it.looks += 1
            if it.failures:
                it.failures -= 1
                return refusal(503, "the history is locked")
            for name in NOT_KNOWN & request.query.keys():
                sentence = f"there is no query parameter {name}; known: tail, offset"
                return refusal(400, sentence)
            headers = {"Accept": "application/json"}
            async with client.get(url + request.path_qs, headers=headers) as answer:
                said, status = await answer.json(), answer.status
            for key in AROUND:
                said.pop(key, None)
            return web.Response(
                text=json.dumps(said), status=status, content_type="application/json"
            )

        application = web.Application()
        application.router.add_get("/{path:.*}", forward)
        runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            it.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield it
        finally:
            await runner.cleanup()
