"""Remotes that are out of reach, stall, break off or talk nonsense: nothing is lost by it,
and nobody else waits.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.end_to_end import impatient
from tests.end_to_end.server import REPO, Server, World
from tests.end_to_end.test_contract_commits import change, deliver, history, script
from tests.fakes.git_http import GitServer, git_server
from tests.fakes.proxy import Babble, Cut, Fault, Proxy, Reset, Stall, fault_proxy
from tests.fakes.push import GITHUB_ID
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

OTHER = "octo-org/other"
PAGE = (
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n\r\n<html>in?"
)
EMPTY = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@dataclass
class Remote:
    """A repository that is reached over HTTP, through a network that can fail."""

    server: GitServer
    network: Proxy


@asynccontextmanager
async def remote(world: World) -> AsyncIterator[Remote]:
    """The world's own repository, behind such a network; the server is impatient."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(git_server(world.origin))
        port = urlsplit(server.url).port
        assert port is not None
        network = await stack.enter_async_context(fault_proxy(port))
        url = network.url(server.url)
        world.repository["url"] = url.replace("http://", "https://")
        world.program = impatient.PROGRAM
        world.build |= {"sandbox": False}
        yield Remote(server, network)


def second_repository(world: World) -> Origin:
    """Another one, on this disk; its builds need nobody."""
    other = Origin(world.folder / "other.git")
    world.extra += (
        f'\n[[repository]]\nname = "{OTHER}"\nurl = "{other.url}"\n'
        'builder = "command"\ncommand = ["./ci"]\n'
    )
    return other


async def waits(server: Server, number: int) -> str:
    """Wait until the build is back in the queue after an attempt; why it is."""

    async def there() -> str:
        build = await server.build(number)
        back = build["state"] == "queued" and build["summary"]
        return build["summary"] if back else ""

    return await wait_until(there, what=f"build {number} back in the queue")


async def test_a_remote_that_stalls_keeps_nobody_waiting(command_world: World) -> None:
    """With one slot, and a push of five commits to the dead remote."""
    world = command_world
    world.build = {"parallel": 1}
    base = script(world)
    commits = change(world, *"abcd")
    other = second_repository(world)
    healthy = other.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    # The fetch hangs until we end it.
    async with remote(world) as far, world.server(IMPATIENT_STALL="600") as server:
        far.network.fault = Stall(after=300)
        await deliver(server, [base, *commits])
        await wait_until(lambda: far.network.hanging, what="a fetch that hangs")
        answer = await deliver(
            server, [healthy], repo=OTHER, github_id=GITHUB_ID + 1, created=True
        )
        (number,) = answer["builds"]
        build = await server.finished(number)
        assert build["state"] == "succeeded"
        # Its slot was lent meanwhile.
        assert far.network.hanging == 1
        assert far.network.connections == 1
        await far.network.hang_up()
        # One asks for all.
        reason = await waits(server, 5)
        assert "could not be reached" in reason
        for waiting in range(1, 5):
            assert (await server.build(waiting))["summary"] == reason
        tried = history(world, "SELECT sum(attempt) FROM builds WHERE number < 6")
        checks = {c["name"]: c for c in (await server.get("/health"))["checks"]}
        assert checks["remotes"]["ok"] is False
        assert REPO in checks["remotes"]["detail"]
        await far.network.cure()
        for waiting in range(1, 6):
            assert (await server.finished(waiting))["state"] == "succeeded"
        assert tried[0][0] <= 3
        assert history(world, "SELECT sum(counted) FROM builds") == [(0,)]
        checks = {c["name"]: c for c in (await server.get("/health"))["checks"]}
        assert checks["remotes"]["ok"] is True


FAULTS: dict[str, Fault] = {
    "cut at once": Cut(),
    "cut in mid-pack": Cut(after=1500),
    "reset in mid-pack": Reset(after=1500),
    "a stall in mid-pack": Stall(after=1500),
    "garbage": Babble(piece=b"\xff\x00garbage" * 99, times=50),
    "garbage in mid-pack": Babble(after=1500, piece=b"\xff" * 500, times=50),
    "headers without end": Babble(piece=b"X-Header: " + b"x" * 900 + b"\r\n"),
    "a login page": Babble(piece=PAGE, times=1),
    "an empty page": Babble(piece=EMPTY, times=1),
}


@pytest.mark.faults
async def test_whatever_a_network_does_the_commit_is_built_when_it_works_again(
    command_world: World,
) -> None:
    world = command_world
    before = script(world)
    async with remote(world) as far, world.server() as server:
        await server.push(before)
        assert (await server.finished(1))["state"] == "succeeded"

        async def suffer(name: str, number: int) -> None:
            nonlocal before
            sha = world.origin.commit({"ballast": os.urandom(20_000)}, name)
            await server.push(sha, before=before)
            before = sha
            said = await waits(server, number)
            assert "could not be reached" in said or "no git server" in said, said

        number = 1
        for name, fault in FAULTS.items():
            far.network.fault = fault
            await suffer(name, number := number + 1)
            await far.network.cure()
            assert (await server.finished(number))["state"] == "succeeded", name
        for status in (429, 500, 502):
            far.server.status = status
            await suffer(f"{status}", number := number + 1)
            far.server.status = 200
            assert (await server.finished(number))["state"] == "succeeded", status
        await far.network.close()
        await suffer("refused", number := number + 1)
        # What is in the mirror needs no remote.
        assert (await server.post("/builds/1/retry"))[0] == 202
        assert (await server.finished(1))["state"] == "succeeded"
        await far.network.open()
        assert (await server.finished(number))["state"] == "succeeded"
    rows = history(world, "SELECT DISTINCT state, counted FROM builds")
    assert rows == [("succeeded", 0)]
    assert "error" not in {status.state for status in world.github.taken}


async def test_a_login_page_makes_no_branch_and_no_commit_vanish(
    command_world: World,
) -> None:
    """Behind one, a triggered branch is not reported as gone, nor a commit as vanished."""
    world = command_world
    sha = script(world)
    async with remote(world) as far, world.server() as server:
        far.network.fault = Babble(piece=EMPTY, times=1)
        await server.push(sha)
        assert "no git server" in await waits(server, 1)
        status, answer = await server.post("/build/trigger", {"ref": "dev"})
        assert status != 404, answer
        assert "no git server" in str(answer)
        await far.network.cure()
        assert (await server.finished(1))["state"] == "succeeded"


@pytest.mark.faults
async def test_a_stop_does_not_wait_for_a_remote(command_world: World) -> None:
    world = command_world
    sha = script(world)
    async with remote(world) as far, world.server(IMPATIENT_STALL="600") as server:
        far.network.fault = Stall(after=300)
        await server.push(sha)
        await wait_until(lambda: far.network.hanging, what="a fetch that hangs")
        assert await server.stop() == 0
    rows = history(world, "SELECT state, counted, deaths FROM builds")
    assert rows == [("queued", 0, 0)]
