"""An older backup put back: nothing that is known to the state directory is reused."""

from __future__ import annotations

import asyncio
import shutil

from ci.history.database import copy_database
from ci.history.paths import database_path
from tests.end_to_end.server import World


async def test_numbers_go_on_above_what_has_a_log(command_world: World) -> None:
    world = command_world
    backup = world.folder / "backup.db"
    first = world.origin.commit({"ci": "#!/bin/sh\necho first\n"}, executable=["ci"])
    second = world.origin.commit({"ci": "#!/bin/sh\necho second\n"}, executable=["ci"])
    async with world.server() as server:
        await server.push(first)
        await server.finished(1)
        await asyncio.to_thread(copy_database, database_path(world.state_dir), backup)
        await server.push(second, before=first)
        await server.finished(2)
        await server.stop()
    await asyncio.to_thread(shutil.copy, backup, database_path(world.state_dir))
    async with world.server() as server:
        answer = await server.push(second, before=first, guid="after the restore")
        assert answer["builds"] == [3]
        await server.finished(3)
        log = await server.text("/builds/3/log")
        assert log.count(b"second\n") == 1
