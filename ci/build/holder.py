"""Holding fresh results for a while after their build has ended.

A garbage collector first reads the lasting roots and then the temporary ones, which are
those of open connections. Between the two it looks at every process of the host. A result
whose lasting root comes, and whose connection goes, in just that moment is seen by neither
look and deleted. So another connection holds it for longer than any collector looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from ci.adapters.nix_daemon import Daemon, connect
from ci.adapters.nix_environment import NixEnvironment
from ci.errors import DaemonLost, HostFault

# Seconds; looking at all processes takes a collector a few at most.
LONG_ENOUGH = 60.0


class Holder:
    """Opens a connection when there is something to hold, and none while there is not.

    One takes what is to be held for `linger` seconds, and is closed after as many more.
    """

    def __init__(
        self,
        nix: NixEnvironment,
        env: Mapping[str, str],
        *,
        linger: float = LONG_ENOUGH,
    ) -> None:
        self._nix = nix
        self._env = env
        self._linger = linger
        self._turn = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()
        self._daemon: Daemon | None = None
        self._until = 0.0

    def expect(self) -> None:
        """Something will be held soon: open the connection meanwhile."""
        task = asyncio.create_task(self._expect(), name="opening to hold")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def hold(self, paths: Sequence[str]) -> None:
        """Returns when nobody can collect them for `linger` seconds; raises DaemonLost."""
        async with self._turn:
            try:
                await self._hold(paths)
            except DaemonLost:
                # It was restarted since; the build's own connection has gone on.
                self._daemon = None
                await self._hold(paths)

    async def _expect(self) -> None:
        async with self._turn:
            with suppress(HostFault):
                await self._current()

    async def close(self) -> None:
        """Let go of everything."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _hold(self, paths: Sequence[str]) -> None:
        daemon = await self._current()
        for path in paths:
            await daemon.add_temp_root(path)

    async def _current(self) -> Daemon:
        now = asyncio.get_running_loop().time()
        if self._daemon is None or now > self._until:
            self._daemon = None
            self._daemon = await self._connected()
            self._until = now + self._linger
        return self._daemon

    async def _connected(self) -> Daemon:
        there = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._stay(there), name="holding results")
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        await asyncio.wait({task, there}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        daemon: Daemon = there.result()
        return daemon

    async def _stay(self, there: asyncio.Future[Daemon]) -> None:
        async with connect(self._nix, env=self._env) as daemon:
            there.set_result(daemon)
            await asyncio.sleep(2 * self._linger)
