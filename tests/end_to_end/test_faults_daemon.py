"""The Nix daemon and the evaluation are killed, stopped and away: never the commit's fault.

Each commit waits at a gate, so that what befalls it befalls it in the middle.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end import impatient
from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import gate, history, open_gate
from tests.fakes.flakes import one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.mortal_daemon import MortalDaemon, descendants, mortal_daemon
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

# Some seconds of pure computing.
LONG = """
let
  list = builtins.genList (x: x) 1000;
  sum = builtins.foldl' (x: y: x + y) 0 list;
  long = builtins.foldl'
    (x: y: x + builtins.foldl' (a: b: a + b) y list) 0 (builtins.genList (x: x) 8000);
in
"""


pytestmark = pytest.mark.faults
# Where both versions do the same, one shows it.
ONE_NIX = pytest.mark.parametrize("nix_version", ["installed"], indirect=True)


@pytest.fixture
def daemon(fresh_nix: NixStore) -> Iterator[MortalDaemon]:
    with mortal_daemon(fresh_nix) as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, github: FakeGitHub, daemon: MortalDaemon) -> World:
    """A world whose daemon is not started yet; its server has little patience."""
    store = daemon.behind
    origin = Origin(tmp_path / "origin.git")
    world = World(tmp_path, origin, github, store.env, store.program)
    world.program = impatient.PROGRAM
    # Waiting packages say something five times a second.
    world.build = {"silent_timeout": "5s"}
    return world


def waiting_package(world: World, name: str) -> dict[str, str]:
    """A flake that builds once the gate is open, and is not silent meanwhile."""
    lines = gate(world).replace("sleep 0.05", "echo waiting; sleep 0.2")
    return one_package(f"echo begun; {lines}; echo ok > $out", name=name)


async def back(server: Server, number: int, words: str) -> dict[str, Any]:
    """Wait until an attempt has ended for a reason with these words."""

    async def there() -> bool:
        rows = history(
            server.world,
            f"SELECT reason FROM attempts WHERE build = {number}",  # noqa: S608 — a number
        )
        return any(words in reason for (reason,) in rows)

    await wait_until(there, what=f"an attempt of build {number} with {words!r}")
    return await server.build(number)


async def test_a_daemon_that_comes_and_goes(world: World, daemon: MortalDaemon) -> None:
    """Away when the build begins, killed in the middle of it, stopped, back at last."""
    sha = world.origin.commit(waiting_package(world, "gone"))
    async with world.server() as server:
        await server.push(sha)
        await back(server, 1, "cannot reach the Nix daemon")
        assert history(world, "SELECT counted FROM builds") == [(0,)]
        await asyncio.to_thread(daemon.start)
        await server.until_said(1, b"begun")
        await asyncio.to_thread(daemon.kill)
        await back(server, 1, "closed the connection while building")
        assert history(world, "SELECT counted FROM builds") == [(1,)]
        await asyncio.to_thread(daemon.start)
        await server.until_said(1, b"begun")
        daemon.signal(signal.SIGSTOP)
        # The silence is noticed, and then nobody greets.
        await back(server, 1, "says nothing any more")
        assert history(world, "SELECT counted FROM builds") == [(2,)]
        await back(server, 1, "did not answer within 3 s while greeting it")
        assert history(world, "SELECT counted FROM builds") == [(2,)]
        open_gate(world)
        daemon.signal(signal.SIGCONT)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build
    assert {s.state for s in world.github.taken} <= {"pending", "success"}


@ONE_NIX
async def test_builders_that_outlive_their_daemon_spoil_nothing(
    world: World, daemon: MortalDaemon
) -> None:
    """Nix 2.8 leaves them running: the next build of the same must not trip over them."""
    sha = world.origin.commit(waiting_package(world, "orphan"))
    await asyncio.to_thread(daemon.start)
    async with world.server() as server:
        await server.push(sha)
        await server.until_said(1, b"begun")
        await asyncio.to_thread(daemon.kill, builders=False)
        await back(server, 1, "closed the connection while building")
        await asyncio.to_thread(daemon.start)
        await server.until_said(1, b"begun")
        open_gate(world)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build


async def evaluators(server: Server) -> list[int]:
    """The processes that evaluate for this server, parents first.

    Nix has children that look like itself until they are git.
    """

    def look() -> list[int]:
        return [pid for pid in descendants(server.process.pid) if evaluates(pid)]

    return await asyncio.to_thread(look)


def evaluates(pid: int) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return argv[0].endswith(b"/nix") and b"eval" in argv


@ONE_NIX
async def test_an_evaluation_that_is_killed_or_loses_its_daemon(
    world: World, daemon: MortalDaemon
) -> None:
    text = waiting_package(world, "long")["flake.nix"]
    # Reached before there is anything to build.
    body = text.replace(
        'builder = "/bin/sh";', 'builder = "/bin/sh"; SUM = toString long;'
    )
    assert body != text
    open_gate(world)
    sha = world.origin.commit(
        {
            "flake.nix": body.replace(
                "outputs = { self }:", f"outputs = {{ self }}: {LONG}"
            )
        }
    )
    await asyncio.to_thread(daemon.start)
    async with world.server() as server:
        await server.push(sha)
        pid, *_ = await wait_until(lambda: evaluators(server), what="an evaluation")
        os.kill(pid, signal.SIGKILL)
        await back(server, 1, "evaluation was killed")
        await wait_until(lambda: evaluators(server), what="another evaluation")
        await asyncio.to_thread(daemon.kill)
        await wait_until(
            lambda: history(
                world, "SELECT 1 FROM attempts WHERE number = 2 AND finished_at > 0"
            ),
            what="the end of the second attempt",
        )
        await asyncio.to_thread(daemon.start)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build
    outcomes = history(world, "SELECT DISTINCT outcome FROM attempts ORDER BY 1")
    assert ("failed",) not in outcomes
