"""The composition root: opens everything in order, wires it, supervises it, closes it.

This is the only module that knows every department. Departments meet in the database
and in one `wake`; here both are handed to them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ci import __version__
from ci.adapters import harmonia, host, process, systemd
from ci.adapters.github import App, Credential, GitHub, Token
from ci.adapters.logs import LogHub
from ci.adapters.metrics import Metrics
from ci.build.fetchable import FetchCheck
from ci.build.scheduler import Scheduler
from ci.config import Secrets, Settings
from ci.health import Health
from ci.history import deliveries, instances, outbox, paths, queue, repositories, states
from ci.history.database import Database
from ci.history.deliveries import Arrival, Receipt
from ci.intake.ledger import Ledger
from ci.intake.requests import Requests
from ci.intake.webhook import public_application, runner_options
from ci.listen import Listener, count_refusals, listen
from ci.report.outbox import Outbox
from ci.serve.api import private_application
from ci.supervise import Supervisor
from ci.wake import Wake
from ci.workshop import Workshop

log = logging.getLogger(__name__)

# Well below the 90 s after which systemd kills; a build that needs longer starts over.
STOP_GRACE = 10.0
PRIVATE = {"handler_cancellation": True, "access_log": None, "shutdown_timeout": 5.0}


@dataclass
class Server:
    """One running server. `addresses` says where each listener really is, as a URL."""

    settings: Settings
    database: Database
    wake: Wake
    scheduler: Scheduler
    addresses: Mapping[str, str]

    async def statuses_posted(self, timeout: float) -> bool:  # noqa: ASYNC109
        """Wait until GitHub has heard everything; False when it did not in time."""
        try:
            async with asyncio.timeout(timeout):
                seen = self.wake.count
                while await self.database.read(outbox.backlog):
                    seen = await self.wake.wait(seen, 1.0)
        except TimeoutError:
            return False
        return True


async def serve(
    settings: Settings, secrets: Secrets, environ: Mapping[str, str]
) -> int:
    """Run a server until SIGTERM or SIGINT; the second signal does not wait. Returns 0."""
    _allow_many_files()
    asked, hurried = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurried if asked.is_set() else asked).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with running(settings, secrets, environ) as server:
        if not settings.github.webhook:
            log.warning("github.webhook = false: only triggers start builds")
        where = ", ".join(f"{name} {url}" for name, url in server.addresses.items())
        log.info("build-server %s is ready: %s", __version__, where)
        systemd.notify(systemd.READY, systemd.status(where), environ=environ)
        await asked.wait()
        systemd.notify(systemd.STOPPING, environ=environ)
        stopping = asyncio.create_task(server.scheduler.stop(STOP_GRACE))
        hurry = asyncio.create_task(hurried.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        await server.scheduler.interrupt()
        await stopping
        hurry.cancel()
    log.info("stopped")
    return 0


def _allow_many_files() -> None:
    """Followers of logs are open files; the soft limit is often 1024, the hard one not."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@asynccontextmanager
async def running(
    settings: Settings, secrets: Secrets, environ: Mapping[str, str]
) -> AsyncIterator[Server]:
    """A server that accepts pushes and builds until the context ends.

    Raises InstanceRunning, HistoryError or ConfigurationError before anything listens.
    """
    async with AsyncExitStack() as stack:
        lock = await asyncio.to_thread(host.lock_state_dir, settings.state_dir)
        stack.enter_context(lock)
        mark = instance_mark(settings.state_dir)
        killed = await process.kill_leftovers(mark)
        if killed:
            log.warning("%d processes of a dead server killed", killed)
        database = await Database.open(paths.database_path(settings.state_dir))
        stack.push_async_callback(database.close)
        highest = await asyncio.to_thread(paths.highest_log, settings.state_dir)
        instance = await database.write(_begin, settings, highest)
        server = await _assemble(
            stack, settings, secrets, environ, database, instance, mark
        )
        try:
            yield server
        finally:
            await server.scheduler.interrupt()
            await database.write(_end, instance, settings)


async def _assemble(
    stack: AsyncExitStack,
    settings: Settings,
    secrets: Secrets,
    environ: Mapping[str, str],
    database: Database,
    instance: int,
    mark: str,
) -> Server:
    wake, hub, supervisor = Wake(), LogHub(), Supervisor()
    metrics = Metrics(__version__)
    github = GitHub(settings.github.api_url, lambda: _credential(settings, secrets))
    stack.push_async_callback(github.close)
    numbers = await database.write(
        repositories.ensure, [r.name for r in settings.repositories]
    )
    workshop = await Workshop.open(settings, environ, github, numbers, mark)
    scheduler = Scheduler(
        settings=settings,
        database=database,
        instance=instance,
        builders=workshop.builders,
        mirrors=workshop.mirror,
        hub=hub,
        wake=wake,
        on_end=metrics.build_finished,
        fetch_check=_fetch_check(settings),
    )

    ledger = Ledger(_recorder(database, metrics), wake)
    sender = Outbox(database, github, public_url=settings.public_url, wake=wake)
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "intake": ledger.run,
        "requests": Requests(database, settings, workshop.mirror, wake).run,
        "scheduler": scheduler.run,
        "outbox": sender.run,
        "watchdog": lambda: _watch(environ, database),
    }
    await stack.enter_async_context(_kept(supervisor, loops))
    private = private_application(
        settings=settings,
        secrets=secrets,
        database=database,
        wake=wake,
        hub=hub,
        metrics=metrics,
        checks=Health(settings, sender, supervisor),
        version=__version__,
    )
    listeners = {"private": Listener(private, settings.listen.private, PRIVATE)}
    if settings.github.webhook:
        known = await database.read(repositories.known)
        listeners["public"] = _public(settings, secrets, ledger, known, metrics)
    passed = systemd.listen_sockets(os.environ) if environ is os.environ else {}
    addresses = await listen(stack, listeners, passed)
    return Server(settings, database, wake, scheduler, addresses)


def _public(
    settings: Settings,
    secrets: Secrets,
    ledger: Ledger,
    known: Mapping[int, str],
    metrics: Metrics,
) -> Listener:
    application = public_application(
        settings=settings, secrets=lambda: secrets.webhook, ledger=ledger, known=known
    )
    application.on_response_prepare.append(count_refusals(metrics))
    return Listener(application, settings.listen.public, runner_options())


def _recorder(
    database: Database, metrics: Metrics
) -> Callable[[Sequence[Arrival]], Awaitable[Sequence[Receipt]]]:
    async def record(arrivals: Sequence[Arrival]) -> Sequence[Receipt]:
        receipts = await database.write(deliveries.accept, arrivals)
        for receipt in receipts:
            metrics.delivery("accepted" if receipt.accepted else "ignored")
        return receipts

    return record


def _fetch_check(settings: Settings) -> FetchCheck | None:
    cache = settings.cache
    if cache is None:
        return None
    ask = partial(harmonia.fetchable, url=cache.url, public_key=cache.public_key)
    return FetchCheck(ask, cache.required)


def _credential(settings: Settings, secrets: Secrets) -> Credential | None:
    if settings.github.app_id and secrets.app_key:
        return App(settings.github.app_id, secrets.app_key)
    return Token(secrets.github_token) if secrets.github_token else None


def instance_mark(state_dir: Path) -> str:
    """Names this server's children in /proc, the same after every restart."""
    return hashlib.sha256(os.fsencode(state_dir.absolute())).hexdigest()[:16]


def _begin(connection: sqlite3.Connection, settings: Settings, highest: int) -> int:
    queue.number_above(connection, highest)
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


@asynccontextmanager
async def _kept(
    supervisor: Supervisor, loops: Mapping[str, Callable[[], Awaitable[None]]]
) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(supervisor.keep(name, loop), name=name)
        for name, loop in loops.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(environ: Mapping[str, str], database: Database) -> None:
    """Tell systemd that we live, only after the loop and the database really answered."""
    interval = systemd.watchdog_seconds(environ)
    if interval is None:
        await asyncio.Event().wait()
        return
    while True:
        await database.write(lambda connection: connection.execute("SELECT 1"))
        systemd.notify(systemd.WATCHDOG, environ=environ)
        await asyncio.sleep(interval / 3)
