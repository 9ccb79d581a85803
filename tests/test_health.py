"""What `/health` says of the cache, and how long it lets people wait for that."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.health import CACHE_TIMEOUT, CacheLook
from tests.fakes.waiting import wait_until


async def test_a_cache_that_hangs_is_told_of_without_waiting_for_it() -> None:
    stalled, asked = asyncio.Event(), 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            await stalled.wait()
        return web.Response(text="StoreDir: /nix/store\n")

    application = web.Application()
    application.router.add_get("/nix-cache-info", answer)
    async with TestServer(application) as server:
        look = CacheLook(str(server.make_url("/")).rstrip("/"))
        assert (await look()).ok
        # What was seen last is told while one question, for everybody, is under way.
        async with asyncio.timeout(CACHE_TIMEOUT):
            seen = await asyncio.gather(look(), look(), look())
        assert [check.ok for check in seen] == [True] * 3
        assert asked == 2

        async def told() -> bool:
            return not (await look()).ok

        await wait_until(told, 30, what="that it does not answer")
        stalled.set()

        async def back() -> bool:
            return (await look()).ok

        await wait_until(back, 30, what="that it answers")
