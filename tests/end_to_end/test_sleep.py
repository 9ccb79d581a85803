"""The host sleeps: what was pushed meanwhile is found on wake, not at the next look.

The kernel's clocks are told of by tests/adapters/test_host.py; here the real server is
frozen as a host that is put to sleep freezes it, for longer than its own patience.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.end_to_end.server import Server, World
from tests.end_to_end.test_reconcile import builds, commit, looked
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

FREEZER = Path("/sys/fs/cgroup/freezer")
# Two looks at the clocks are 15 s apart, and 10 s too late is sleep.
ASLEEP = 27.0
# Long after any test: only a wake can make the server look.
NEVER_BY_ITSELF = {"reconcile_every": "1h"}

Asleep = Callable[[Server], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def stopped(server: Server) -> AsyncIterator[None]:
    """SIGSTOP, as a shell or a debugger does it."""
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def frozen(server: Server) -> AsyncIterator[None]:
    """The freezer, which holds the server and all its children, as suspension does."""
    group = FREEZER / f"build-server-test-{os.getpid()}-{server.process.pid}"
    state = group / "freezer.state"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(server.process.pid))
    try:
        await wait_until(lambda: _freeze(state), 60, what="a frozen server")
        yield
    finally:
        state.write_text("THAWED")
        (FREEZER / "cgroup.procs").write_text(str(server.process.pid))
        await wait_until(lambda: not (group / "cgroup.procs").read_text(), 60)
        group.rmdir()


def _freeze(state: Path) -> bool:
    """A process that cannot be frozen just now is tried again with each write."""
    state.write_text("FROZEN")
    return state.read_text().strip() == "FROZEN"


def no_freezer() -> str:
    """Why nothing can be frozen here; empty when it can."""
    try:
        probe = FREEZER / f"build-server-probe-{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return str(error)
    return ""


async def finds_what_was_pushed(world: World, asleep: Asleep) -> None:
    world.github_table = NEVER_BY_ITSELF
    world.build = {"sandbox": False}
    await asyncio.to_thread(commit, world, "before")
    async with world.server() as server:
        await looked(server)
        async with asleep(server):
            await asyncio.to_thread(commit, world, "pushed while it slept")
            await asyncio.sleep(ASLEEP)

        async def found() -> bool:
            return "pushed while it slept" in await builds(server)

        def awake() -> bool:
            return any("awake after" in line for line in server.raw)

        await wait_until(found, 120, what="the commit that was pushed while it slept")
        await wait_until(awake, 60, what="the line that says so")
        health = await server.get("/health")
        (webhook,) = [c for c in health["checks"] if c["name"] == "webhook"]
        assert webhook["ok"], "a host that slept has missed webhooks: no alarm"


@pytest.mark.faults
@pytest.mark.timeout(400)
async def test_after_sleep_the_server_looks_at_once(
    command_world: World, tmp_path: Path
) -> None:
    """Both at the same time: sleep takes as long as it takes."""
    origin = await asyncio.to_thread(Origin, tmp_path / "other.git")
    other = replace(command_world, folder=tmp_path / "other", origin=origin)
    other.folder.mkdir()
    why = no_freezer()
    sleeps = [finds_what_was_pushed(command_world, stopped)]
    if not why:
        sleeps.append(finds_what_was_pushed(other, frozen))
    await asyncio.gather(*sleeps)
    if why:
        pytest.skip(
            f"no freezer here ({why}): not tested that a frozen server finds, once it is "
            "thawed, what was pushed meanwhile"
        )
