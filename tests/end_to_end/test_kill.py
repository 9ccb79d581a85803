"""`kill -9` at random moments of a push storm loses nothing and blames nobody."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import closing, suppress

import aiohttp
import pytest

from ci.history.states import DEATHS
from tests.end_to_end.server import FINAL, Server, World
from tests.fakes.invariants import history
from tests.fakes.waiting import wait_until

KILLS = 20
SEED = int(os.environ.get("KILL_SEED", "20261120"))


def nobody_is_at_his_last(world: World) -> bool:
    """Whether no build would end as an error, were the server to die once more."""
    with closing(history(world.state_dir)) as connection:
        query = (
            "SELECT count(*) FROM builds "
            "WHERE deaths >= ? AND state IN ('queued', 'running')"
        )
        (count,) = connection.execute(query, (DEATHS - 1,)).fetchone()
    return bool(count == 0)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_twenty_kills_in_a_push_storm(command_world: World) -> None:
    print(f"KILL_SEED={SEED}")
    world = command_world
    world.build = {"parallel": 2}
    dice = random.Random(SEED)
    first = world.origin.commit({"ci": "#!/bin/sh\necho ok\n"}, executable=["ci"])
    acknowledged: dict[str, list[str]] = {}
    waiting = [first]
    before = ""

    async def storm(server: Server) -> None:
        """Push one commit after the other until the server is gone."""
        nonlocal before
        while True:
            if not waiting:
                files = {"n": str(dice.random())}
                waiting.append(world.origin.commit(files))
            sha = waiting[0]
            answer = await server.push(sha, before=before, guid=f"guid-{sha}")
            acknowledged[sha] = answer["builds"]
            before = waiting.pop(0)
            await asyncio.sleep(dice.uniform(0.1, 0.5))

    lives = 0
    while lives < KILLS or len(acknowledged) < KILLS:
        lives += 1
        async with world.server() as server:
            pushing = asyncio.create_task(storm(server))
            await asyncio.wait([pushing], timeout=dice.uniform(0.02, 1.0))
            await wait_until(lambda: nobody_is_at_his_last(world), 120)
            await server.kill()
            pushing.cancel()
            with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
                await pushing

    async with world.server() as server:

        async def all_ended() -> bool:
            page = await server.get("/builds?limit=100")
            states = {build["state"] for build in page["builds"]}
            return states <= FINAL

        await wait_until(all_ended, 240, what="the end of every build")
        builds = {
            b["sha"]: b for b in (await server.get("/builds?limit=100"))["builds"]
        }
        assert set(acknowledged) <= set(builds)
        for sha, numbers in acknowledged.items():
            assert builds[sha]["number"] in numbers
            assert builds[sha]["state"] == "succeeded", builds[sha]
        for sha in acknowledged:
            await world.github.wait_for(sha, "success", timeout=240)
            assert world.github.statuses(sha)[-1].state == "success"
