"""systemd is told that we live only while we can work; else it starts us again."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from contextlib import closing, suppress

import pytest

from ci.history.paths import database_path
from tests.end_to_end.server import World

ALIVE = "WATCHDOG=1"
# The server says so three times in this many seconds; systemd waits for so long.
INTERVAL = 0.3


async def until_alive(inbox: socket.socket, times: int) -> None:
    """Wait until it has been said so many times."""
    while times:
        data = await asyncio.get_running_loop().sock_recv(inbox, 4096)
        times -= data.decode().splitlines().count(ALIVE)


def forget(inbox: socket.socket) -> None:
    """Leave nothing in it that was said before."""
    with suppress(BlockingIOError):
        while True:
            inbox.recv(4096)


async def test_a_server_that_cannot_write_is_not_called_alive(
    command_world: World,
) -> None:
    world = command_world
    path = world.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(path))
        inbox.setblocking(False)
        async with world.server(
            NOTIFY_SOCKET=str(path), WATCHDOG_USEC=str(int(INTERVAL * 1e6))
        ):
            async with asyncio.timeout(60):
                await until_alive(inbox, 3)
            database = database_path(world.state_dir)
            with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
                foreign.execute("BEGIN IMMEDIATE")
                # What was said before the lock is no sign of life. Once more it may be
                # said afterwards, by a server that wrote just before.
                forget(inbox)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5 * INTERVAL):
                        await until_alive(inbox, 2)
                foreign.execute("ROLLBACK")
            async with asyncio.timeout(60):
                await until_alive(inbox, 3)
