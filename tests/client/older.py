"""A server of an earlier version: today's, without what it has learnt to tell since."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession, web

from ci.client.as_json import AROUND

NOT_KNOWN = {"times"}


@asynccontextmanager
async def older(url: str) -> AsyncIterator[str]:
    """The address of such a server in front of that at `url`."""
    async with ClientSession() as client:

        async def forward(request: web.Request) -> web.Response:
            for name in NOT_KNOWN & request.query.keys():
                sentence = f"there is no query parameter {name}; known: tail, offset"
                return web.json_response({"error": sentence, "status": 400}, status=400)
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
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
