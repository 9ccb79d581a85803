"""What is said of a loop that has stopped."""

from __future__ import annotations

import asyncio

from ci.supervise import Supervisor
from tests.fakes.waiting import wait_until


async def test_the_error_itself_is_told_not_the_group_it_came_in() -> None:
    async def broken() -> None:
        raise ValueError("the disk is full")

    async def loop() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(broken())

    supervisor = Supervisor()
    task = asyncio.create_task(supervisor.keep("looking", loop))
    try:
        await wait_until(lambda: supervisor.troubles, what="a loop in trouble")
        assert supervisor.check().detail == "looking: ValueError: the disk is full"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
