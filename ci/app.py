"""A server's life: locked, put in order, run, stopped, put in order again.

What it is made of is put together in assembly.py.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import os
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from ci import __version__
from ci.adapters import host, process, systemd
from ci.assembly import Ground, Server, assemble
from ci.config import Secrets, Settings
from ci.credentials import Credentials, on_hangup
from ci.errors import HistoryError
from ci.history import instances, paths, queue, states
from ci.history.database import Database
from ci.upkeep.watch import give_up_ballast_when_full

log = logging.getLogger(__name__)

# Well below the 90 s after which systemd kills; a build that needs longer starts over.
STOP_GRACE = 10.0


async def serve(
    settings: Settings,
    secrets: Secrets,
    environ: Mapping[str, str],
    file: Path | None = None,
) -> int:
    """Run a server until SIGTERM or SIGINT; the second signal does not wait. Returns 0.

    SIGHUP reads the secrets again, and their paths from the configuration in `file`.
    Raises HistoryError when the history fails meanwhile: nothing can be recorded.
    """
    _allow_many_files()
    asked, hurried = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurried if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    credentials = Credentials(settings, secrets, environ, file=file)
    hung_up = on_hangup(credentials.reload_soon, on_signal)
    loop.add_signal_handler(signal.SIGHUP, hung_up)
    async with running(settings, credentials, environ) as server:
        if not settings.github.webhook:
            log.warning("github.webhook = false: pushes are found by looking only")
        _spare_what_stays()
        where = ", ".join(f"{name} {url}" for name, url in server.addresses.items())
        log.info("build-server %s is ready: %s", __version__, where)
        systemd.notify(systemd.READY, systemd.status(where), environ=environ)
        await _asked_or_failed(asked, server.database)
        systemd.notify(systemd.STOPPING, environ=environ)
        stopping = asyncio.create_task(server.scheduler.stop(STOP_GRACE))
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        await server.scheduler.interrupt()
        await stopping
        hurry.cancel()
    log.info("stopped")
    return 0


async def _asked_or_failed(asked: asyncio.Event, database: Database) -> None:
    """Wait until somebody wants the end; raises HistoryError when nothing can go on."""
    waits = {asyncio.create_task(asked.wait()), asyncio.create_task(database.failed())}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waits:
            task.cancel()
    for task in done:
        ended = task.result()
        if isinstance(ended, HistoryError):
            raise ended


def _spare_what_stays() -> None:
    """Modules, classes and settings stay until the end: let no collection look at them.

    A full collection goes through all there is, some 40 ms, and comes in the middle of
    whatever answer fills its measure. What is made from now on takes it 1 to 3 ms.
    """
    gc.collect()
    gc.freeze()


def _allow_many_files() -> None:
    """Followers of logs are open files; the soft limit is often 1024, the hard one not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def running(
    settings: Settings, credentials: Credentials, environ: Mapping[str, str]
) -> AsyncIterator[Server]:
    """A server that accepts pushes and builds until the context ends.

    Raises InstanceRunning, HistoryError, ConfigurationError, or HostFault where another
    start may do better.
    """
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(give_up_ballast_when_full, settings)
        lock = await asyncio.to_thread(host.lock_state_dir, settings.state_dir)
        stack.enter_context(lock)
        mark = instance_mark(settings.state_dir)
        killed = await process.kill_leftovers(mark)
        if killed:
            log.warning("%d processes of a dead server killed", killed)
        database = await Database.open(paths.database_path(settings.state_dir))
        stack.push_async_callback(database.close)
        highest = await asyncio.to_thread(paths.highest_log, settings.state_dir)
        unknown = await database.write(queue.number_above, highest)
        if unknown:
            log.warning(
                "%d builds have logs and are not in the history: it begins anew, or an "
                "older copy was put back; new builds are numbered from %d on",
                unknown,
                highest + 1,
            )
        instance = await database.write(_begin, settings)
        ground = Ground(settings, credentials, environ, database, instance, mark)
        server = await assemble(stack, ground)
        try:
            yield server
        finally:
            await server.scheduler.interrupt()
            try:
                await database.write(_end, instance, settings)
            except sqlite3.Error as error:
                log.warning("the next start puts in order what is left: %s", error)


def instance_mark(state_dir: Path) -> str:
    """Names this server's children in /proc, the same after every restart."""
    return hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:16]


def _begin(connection: sqlite3.Connection, settings: Settings) -> int:
    states.recover(
        connection,
        at=host.now_ms(),
        context=settings.github.status_context,
        died=True,
    )
    return instances.begin(
        connection,
        boot_id=host.boot_id(),
        pid=os.getpid(),
        pid_start=host.process_start(os.getpid()) or 0,
        at=host.now_ms(),
    )


def _end(connection: sqlite3.Connection, instance: int, settings: Settings) -> None:
    """Leave nothing `running`: a claim that was cut off by the stop is free too."""
    states.recover(
        connection,
        at=host.now_ms(),
        context=settings.github.status_context,
        died=False,
    )
    instances.end(connection, instance, host.now_ms())
