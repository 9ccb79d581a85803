"""The whole server, its builds running, under everything that its document allows."""

from __future__ import annotations

import asyncio

import pytest

from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import script
from tests.fakes.fuzzer import fuzz
from tests.fakes.waiting import wait_until

SECONDS = 10
PHASES = "fuzzing,stateful"


async def has_begun(server: Server, number: int) -> bool:
    """Whether it runs, or has ended already."""
    return bool((await server.build(number))["attempt"] == 1)


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_the_real_server_keeps_what_its_document_promises(
    command_world: World,
) -> None:
    world = command_world
    good = await asyncio.to_thread(script, world, "echo fine")
    bad = await asyncio.to_thread(script, world, "exit 1")
    # Short enough for a request that follows its log, however often it is retried.
    slow = await asyncio.to_thread(script, world, "sleep 2")
    async with world.server() as server:
        await server.push([good, bad])
        await server.finished(2)
        await server.push(slow, before=bad)
        await wait_until(lambda: has_begun(server, 3), 60, what="build 3")
        code, output = await fuzz(server.private, world.folder, SECONDS, PHASES)
        assert code == 0, output
        paths = (await server.get("/openapi.json"))["paths"]
        # All but the document itself and the two that never end.
        assert f"Tested: {sum(map(len, paths.values())) - 3}\n" in output
        assert [line for line in server.lines if line["level"] == "error"] == []
        # It may be over, or cancelled by the fuzzer.
        await server.post("/builds/3/cancel")
        after = await asyncio.to_thread(script, world, "echo after")
        answer = await server.push(after)
        build = await server.finished(answer["builds"][-1])
        assert build["state"] == "succeeded"
