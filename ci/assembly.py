"""The composition root: makes every part, and wires them.

This is the only module that knows every department. Departments meet in the database
and in one `wake`; here both are handed to them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from ci import __version__
from ci.adapters import apprise, harmonia, systemd
from ci.adapters.github import GitHub
from ci.adapters.logs import LogHub
from ci.adapters.metrics import Metrics
from ci.build.fetchable import FetchCheck
from ci.build.scheduler import Scheduler
from ci.config import Settings
from ci.credentials import Credentials
from ci.doctor import checks as doctor_checks, credential_of
from ci.doctor.examination import Examination
from ci.door import Door
from ci.health import CacheLook, Health
from ci.history import deliveries, outbox, repositories, retention
from ci.history.database import Database
from ci.history.deliveries import Arrival, Receipt
from ci.init.registration import ping_all
from ci.intake.ledger import Ledger
from ci.intake.reconcile import Reconcile
from ci.intake.requests import Requests
from ci.intake.webhook import BOUNDS, public_application, runner_options
from ci.listen import Listener, count_refusals, listen
from ci.models import Check
from ci.outside.watch import OutsideWatch
from ci.report.notify import Notifier
from ci.report.outbox import Outbox
from ci.serve.api import private_application
from ci.serve.service import FirstRun
from ci.supervise import Supervisor
from ci.upkeep import Upkeep
from ci.upkeep.room import Room
from ci.wake import Wake
from ci.workshop import Workshop

FIRST_LOOK = 5.0
PRIVATE = {"handler_cancellation": True, "access_log": None, "shutdown_timeout": 5.0}

Loops = Mapping[str, Callable[[], Awaitable[None]]]


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


@dataclass(frozen=True)
class Ground:
    """What a server stands on: opened before it is put together, closed after it."""

    settings: Settings
    credentials: Credentials
    environ: Mapping[str, str]
    database: Database
    instance: int
    mark: str


@dataclass(frozen=True)
class Common:
    """What many parts share."""

    github: GitHub
    wake: Wake = field(default_factory=Wake)
    hub: LogHub = field(default_factory=LogHub)
    metrics: Metrics = field(default_factory=lambda: Metrics(__version__))
    supervisor: Supervisor = field(default_factory=Supervisor)


async def assemble(stack: AsyncExitStack, ground: Ground) -> Server:
    """Make every part and start it; `stack` takes them apart again, in reverse."""
    settings, database = ground.settings, ground.database
    common = Common(_github(ground))
    wake = common.wake
    stack.push_async_callback(common.github.close)
    workshop = await _workshop(ground, common.github)
    stack.push_async_callback(workshop.close)
    await _look_first(workshop.room)
    upkeep = Upkeep(settings, database, workshop.room, workshop.mirror, wake)
    upkeep.measured_by(common.metrics)
    scheduler = _scheduler(ground, common, workshop, upkeep)
    ledger = Ledger(_recorder(database, common.metrics, wake), wake)
    sender = Outbox(database, common.github, public_url=settings.public_url, wake=wake)
    sender.measured_by(common.metrics)
    ground.credentials.on_change(lambda _changed: sender.credential_changed())
    outside = _outside(ground, common)
    reconcile = _reconcile(ground, common, workshop, (outside.hurry, sender.hurry))
    updates = workshop.updates(database, wake)
    notifier = _notifier(ground, wake)
    loops: Loops = {
        "intake": ledger.run,
        "requests": Requests(database, settings, workshop.mirror, wake).run,
        "scheduler": scheduler.run,
        "outbox": sender.run,
        "credentials": ground.credentials.run,
        "watchdog": lambda: _watch(ground.environ, database),
        "history": database.guard,
        "disk": upkeep.watch.run,
        "upkeep": upkeep.run,
    }
    await stack.enter_async_context(_kept(common.supervisor, loops))
    first = (database, ground.credentials, outside, reconcile, upkeep, scheduler)
    looks = [part.checks for part in (*first, updates, notifier)]
    cache = CacheLook(settings.cache.url) if settings.cache else None
    health = Health(sender, common.supervisor, looks, cache)
    notifier.examines(health)
    door = Door(wake)
    first_run = _first_run(stack, ground, common, door)
    private = _private(ground, common, health, first_run, workshop.room.reason)
    listeners = {"private": private}
    if settings.github.webhook:
        listeners["public"] = await _public(ground, common, ledger, door)
    addresses = await listen(stack, listeners, _passed(ground), common.metrics)
    # They look at the listeners, or at what came through them: not before these are there.
    later: Loops = {
        "outside": outside.run,
        "reconcile": reconcile.run,
        "updates": updates.run,
        "notify": notifier.run,
    }
    await stack.enter_async_context(_kept(common.supervisor, later))
    return Server(settings, database, wake, scheduler, addresses)


def _github(ground: Ground) -> GitHub:
    return GitHub(
        ground.settings.github.api_url,
        lambda: credential_of(ground.settings, ground.credentials.current),
    )


async def _workshop(ground: Ground, github: GitHub) -> Workshop:
    names = [repository.name for repository in ground.settings.repositories]
    numbers = await ground.database.write(repositories.ensure, names)

    async def needed(
        repository: int, builds: Collection[int], count: int
    ) -> Collection[int]:
        return await ground.database.read(
            retention.needed_results, repository, builds, count
        )

    return await Workshop.open(
        ground.settings, ground.environ, github, numbers, ground.mark, needed
    )


async def _look_first(room: Room) -> None:
    """Before a build may begin it is known whether there is room, unless a disk hangs."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK):
            await room.look()


def _scheduler(
    ground: Ground, common: Common, workshop: Workshop, upkeep: Upkeep
) -> Scheduler:
    return Scheduler(
        settings=ground.settings,
        database=ground.database,
        instance=ground.instance,
        builders=workshop.builders,
        mirrors=workshop.mirror,
        hub=common.hub,
        wake=common.wake,
        on_end=_each(common.metrics.build_finished, upkeep.build_ended),
        may_begin=workshop.room.reason,
        strain=workshop.strain,
        shortage=workshop.shortage,
        fetch_check=_fetch_check(ground.settings),
    )


def _outside(ground: Ground, common: Common) -> OutsideWatch:
    watch = OutsideWatch(
        ground.settings,
        lambda: ground.credentials.current.webhook,
        lambda: common.github.clock_skew,
    )
    watch.measured_by(common.metrics)
    return watch


def _reconcile(
    ground: Ground,
    common: Common,
    workshop: Workshop,
    hurry: Sequence[Callable[[], None]],
) -> Reconcile:
    """`hurry` is called when the network may be there again."""

    def on_return(_slept: float) -> None:
        for try_again in hurry:
            try_again()

    reconcile = Reconcile(
        ground.database,
        ground.settings,
        workshop.mirror,
        common.github,
        common.wake,
        on_return=on_return,
    )
    reconcile.measured_by(common.metrics)
    ground.credentials.on_change(lambda _changed: reconcile.credential_changed())
    return reconcile


def _notifier(ground: Ground, wake: Wake) -> Notifier:
    notifier = Notifier(
        ground.database,
        ground.settings,
        lambda: ground.credentials.current.notify_urls,
        wake,
        send=partial(apprise.send, env=ground.environ),
    )
    ground.credentials.on_change(lambda _changed: notifier.addresses_changed())
    return notifier


def _private(
    ground: Ground,
    common: Common,
    health: Health,
    first_run: FirstRun,
    waits: Callable[[], str],
) -> Listener:
    application = private_application(
        settings=ground.settings,
        secrets=lambda: ground.credentials.current,
        database=ground.database,
        wake=common.wake,
        hub=common.hub,
        metrics=common.metrics,
        checks=health,
        version=__version__,
        first_run=first_run,
        waits=waits,
    )
    return Listener(application, ground.settings.listen.private, PRIVATE)


def _first_run(
    stack: AsyncExitStack, ground: Ground, common: Common, door: Door
) -> FirstRun:
    examination = Examination(partial(_examine, ground, common), common.wake)
    stack.push_async_callback(examination.close)
    return FirstRun(
        examine=examination,
        refused=door.last,
        ping=partial(ping_all, common.github, ground.settings),
    )


async def _examine(ground: Ground, common: Common) -> list[Check]:
    """What `build-server doctor` would find, with this server's own credential."""
    current = ground.credentials.current
    there = credential_of(ground.settings, current) is not None
    return await doctor_checks(
        ground.settings,
        current,
        ground.environ,
        credential=common.github.check_credential if there else None,
    )


async def _public(
    ground: Ground, common: Common, ledger: Ledger, door: Door
) -> Listener:
    application = public_application(
        settings=ground.settings,
        secrets=lambda: ground.credentials.current.webhook,
        ledger=ledger,
        known=await ground.database.read(repositories.known),
        on_unsigned=common.metrics.bad_signature,
        on_refused=door.note,
    )
    application.on_response_prepare.append(count_refusals(common.metrics))
    return Listener(
        application, ground.settings.listen.public, runner_options(), BOUNDS
    )


def _passed(ground: Ground) -> Mapping[str, socket.socket]:
    # A variable that tests hand over names no socket of this process.
    return systemd.listen_sockets(os.environ) if ground.environ is os.environ else {}


def _each(*told: Callable[[str, float], None]) -> Callable[[str, float], None]:
    def tell(state: str, seconds: float) -> None:
        for one in told:
            one(state, seconds)

    return tell


def _recorder(
    database: Database, metrics: Metrics, wake: Wake
) -> Callable[[Sequence[Arrival]], Awaitable[Sequence[Receipt]]]:
    async def record(arrivals: Sequence[Arrival]) -> Sequence[Receipt]:
        receipts = await database.write(deliveries.accept, arrivals)
        accepted = sum(receipt.accepted for receipt in receipts)
        ignored = len(receipts) - accepted
        metrics.delivery("accepted", accepted)
        metrics.delivery("ignored", ignored)
        if ignored:
            # Pings and ignored pushes start nothing, but /setup waits for them.
            wake()
        return receipts

    return record


def _fetch_check(settings: Settings) -> FetchCheck | None:
    cache = settings.cache
    if cache is None:
        return None
    ask = partial(harmonia.fetchable, url=cache.url, public_key=cache.public_key)
    return FetchCheck(ask, cache.required)


@asynccontextmanager
async def _kept(supervisor: Supervisor, loops: Loops) -> AsyncIterator[None]:
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
