"""What `/health` says of the cache, and how long it lets people wait for that."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.test_utils import TestServer

from ci.health import CacheLook
from tests.fakes.waiting import PATIENCE, wait_until


async def test_a_cache_that_hangs_is_told_of_without_waiting_for_it() -> None:
    goes_on, asked, answered = asyncio.Event(), 0, 0
    goes_on.set()

    async def answer(request: web.Request) -> web.Response:
        nonlocal asked, answered
        asked += 1
        await goes_on.wait()
        answered += 1
        return web.Response(text="StoreDir: /nix/store\n")

    application = web.Application()
    application.router.add_get("/nix-cache-info", answer)
    async with TestServer(application) as server:
        look = CacheLook(str(server.make_url("/")).rstrip("/"), timeout=PATIENCE)
        assert (await look()).ok
        goes_on.clear()
        # What was seen last is told while one question, for everybody, is under way.
        seen = await asyncio.gather(look(), look(), look())
        assert [check.ok for check in seen] == [True] * 3
        assert answered == 1
        await wait_until(lambda: asked > 1, what="the question")
        assert asked == 2
        goes_on.set()
        await wait_until(lambda: answered == 2, what="its answer")
        goes_on.clear()
        look.timeout = 0.5

        async def told() -> bool:
            return not (await look()).ok

        await wait_until(told, what="that it does not answer")
        goes_on.set()

        async def back() -> bool:
            return (await look()).ok

        await wait_until(back, what="that it answers")
