"""Ends of connections: cancelled, killed, never begun. Nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.adapters.nix_daemon import Event, LogLine, ProtocolError, connect
from ci.errors import DaemonDown, DaemonLost
from tests.adapters.nix_cases import PATH, Location, Site, direct, instantiate
from tests.fakes.nix_stores import NixStore
from tests.fakes.waiting import wait_until


@dataclass
class Sleeper:
    """A builder that sleeps, told by itself: its process and the daemon's it hangs on."""

    pid: int
    daemon: int


def exists(pid: int) -> bool:
    """Whether it runs; one that has ended may wait long for its parent's interest."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def sleeps(pid: int) -> bool:
    """Whether its first thread waits in the kernel for something to happen."""
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rpartition(")")[2].split()[0] == "S"


def reaped(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def leftovers() -> Iterator[list[Sleeper]]:
    """Builders that a killed daemon may leave behind, ended after the test."""
    sleepers: list[Sleeper] = []
    yield sleepers
    for sleeper in sleepers:
        with suppress(ProcessLookupError):
            os.kill(sleeper.pid, signal.SIGKILL)


async def asleep(
    site: Site, name: str, leftovers: list[Sleeper]
) -> tuple[asyncio.Task[None], Sleeper]:
    """Start building something endless; returns when its builder runs."""
    script = f'{name} = make "{name}" "echo $$ $PPID; exec sleep 1000" {{ }};'
    paths = await asyncio.to_thread(site.write, script)
    running: asyncio.Future[Sleeper] = asyncio.get_running_loop().create_future()

    def listen(event: Event) -> None:
        if isinstance(event, LogLine):
            running.set_result(Sleeper(*map(int, event.line.split())))

    async def build() -> None:
        async with connect(site.location, env=PATH) as daemon:
            await daemon.build([paths[name]], listen)

    task = asyncio.create_task(build())
    await asyncio.wait((task, running), return_when=asyncio.FIRST_COMPLETED)
    leftovers.append(running.result())
    assert exists(running.result().pid)
    return task, running.result()


async def test_cancelling_leaves_no_process(
    site: Site, leftovers: list[Sleeper]
) -> None:
    task, builder = await asleep(site, "cancelled", leftovers)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not exists(builder.pid))
    await wait_until(lambda: not exists(builder.daemon))


async def test_a_killed_daemon_is_lost_with_what_was_being_done(
    site: Site, leftovers: list[Sleeper]
) -> None:
    task, builder = await asleep(site, "orphaned", leftovers)
    os.kill(builder.daemon, signal.SIGKILL)
    with pytest.raises(DaemonLost, match="while building 1 derivation") as lost:
        await task
    if site.location.socket is None:
        assert "killed by signal 9" in str(lost.value)


CLIENT = """
import asyncio, sys
from ci.adapters.nix_daemon import LogLine, connect
from tests.adapters.nix_cases import PATH, Location
daemon, derivation, *env = sys.argv[1:]
def tell(event):
    if isinstance(event, LogLine):
        print(event.line.decode(), flush=True)
async def build():
    here = Location(daemon, dict(item.split("=", 1) for item in env))
    async with connect(here, env=PATH) as connected:
        await connected.build([derivation], tell)
asyncio.run(build())
"""


async def test_a_child_and_its_builders_die_with_us(
    nix: NixStore, leftovers: list[Sleeper]
) -> None:
    script = 'died = make "died" "echo $$ $PPID; exec sleep 1000" { };'
    path = (await asyncio.to_thread(instantiate, nix, script))["died"]
    env = [f"{name}={value}" for name, value in nix.env.items()]
    us = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, nix.daemon, path, *env),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert us.stdout
    builder = Sleeper(*map(int, (await us.stdout.readline()).split()))
    leftovers.append(builder)
    # One that is told of our death between a line and waiting for the next misses it
    # (2.34), and ends when its builder says something or is silent for too long.
    await wait_until(lambda: sleeps(builder.daemon))
    us.kill()
    await us.wait()
    await wait_until(lambda: not exists(builder.pid) and not exists(builder.daemon))


async def test_a_child_is_waited_for_even_when_cancelled_twice(
    nix: NixStore, leftovers: list[Sleeper]
) -> None:
    task, builder = await asleep(Site(nix, direct(nix)), "twice", leftovers)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reaped(builder.daemon)


async def test_nobody_at_the_socket(tmp_path: Path) -> None:
    nowhere = Location("", {}, tmp_path / "socket")
    with pytest.raises(
        DaemonDown, match=r"cannot reach the Nix daemon .*No such file"
    ) as down:
        async with connect(nowhere, env=PATH):
            pass
    # Nothing was tried, so nothing is counted.
    assert not down.value.counted


@pytest.mark.parametrize(
    ("script", "error", "complaint"),
    [
        ("exec echo good day", ProtocolError, "no Nix daemon answers here"),
        (
            "echo no store >&2; exit 4",
            DaemonLost,
            "ended with code 4; it said: no store",
        ),
        (None, DaemonLost, "while greeting it.*No such file or directory|cannot start"),
    ],
)
async def test_programs_that_are_no_daemon(
    tmp_path: Path, script: str | None, error: type[Exception], complaint: str
) -> None:
    program = tmp_path / "nix-daemon"
    if script:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    with pytest.raises(error, match=complaint):
        async with connect(Location(str(program), {}), env=PATH):
            pass
