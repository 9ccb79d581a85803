"""An older backup put back: numbers go on, and what it does not know is found again."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import closing

from ci.history.copies import copy_database
from ci.history.paths import backup_path, database_path
from tests.end_to_end.server import World
from tests.end_to_end.test_bounds import hasty
from tests.fakes.invariants import history
from tests.fakes.waiting import wait_until


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


async def test_yesterdays_copy_put_back_and_what_it_lacks_found_again(
    command_world: World,
) -> None:
    world = command_world
    hasty(world)
    world.github_table = {"reconcile_every": "1h"}
    copy = backup_path(world.state_dir)
    shas = [
        world.origin.commit({"ci": f"#!/bin/sh\necho {n}\n"}, executable=["ci"])
        for n in range(3)
    ]
    await asyncio.to_thread(world.origin.branch, "dev", shas[0])
    async with world.server() as server:
        await server.finished((await server.push(shas[0]))["builds"][0])
        await world.github.wait_for(shas[0], "success")
        # Stopped before it was noted that it went, the server would send it again.
        await wait_until(lambda: _all_sent(world), 60, what="the note that it went")
        await server.stop()
    # The copy that the first start made is taken away: a day has passed.
    await asyncio.to_thread(shutil.rmtree, copy.parent, ignore_errors=True)
    async with world.server() as server:
        await wait_until(copy.exists, 60, what="the daily copy")
        await asyncio.to_thread(world.origin.branch, "dev", shas[2])
        answer = await server.push(shas[1:], before=shas[0])
        for number in answer["builds"]:
            await server.finished(number)
        await world.github.wait_for(shas[2], "success")
        await server.kill()
    for name in ("history.db", "history.db-wal", "history.db-shm"):
        (world.state_dir / name).unlink(missing_ok=True)
    await asyncio.to_thread(shutil.copy, copy, database_path(world.state_dir))
    before = len(world.github.taken)
    async with world.server() as server:

        async def found() -> bool:
            builds = (await server.get("/builds"))["builds"]
            known = {build["sha"]: build["state"] for build in builds}
            return [known.get(sha) for sha in shas] == ["succeeded"] * 3

        await wait_until(found, 60, what="what the copy lacks, found and built")
        await server.stop()
    again = world.github.taken[before:]
    assert shas[0] not in {status.sha for status in again}, "known, and not told again"


def _all_sent(world: World) -> bool:
    with closing(history(world.state_dir)) as connection:
        query = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
        return bool(connection.execute(query).fetchone()[0] == 0)
