"""Inputs that a flake locks, and a server that has them only sometimes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.end_to_end import impatient
from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_faults_network import waits
from tests.fakes.flakes import InputServer, input_server, locked_tarball, sample
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.proxy import Babble, Cut, Reset, fault_proxy
from tests.fakes.repository import Origin

ERROR = b"HTTP/1.1 500 Oops\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def host() -> Iterator[InputServer]:
    with input_server() as running:
        yield running


def needs(world: World, url: str, name: str) -> str:
    """Commit a flake with an input that no store has yet, offered at `url`."""
    place = f"{url}/{name}"
    lock = locked_tarball(place, content(name))
    return world.origin.commit({**sample("inputs", URL=place), "flake.lock": lock})


def content(name: str) -> dict[str, str]:
    return {"flake.nix": f'{{ outputs = _: {{ value = "{name}"; }}; }}'}


@pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
async def test_an_input_out_of_reach_is_waited_for_and_costs_no_attempt(
    tmp_path: Path, github: FakeGitHub, nix: NixStore, host: InputServer
) -> None:
    origin = Origin(tmp_path / "origin.git")
    environ = {**nix.env, "NIX_CONFIG": "download-attempts = 1"}
    world = World(tmp_path, origin, github, environ, nix.program)
    world.program = impatient.PROGRAM
    port = urlsplit(host.url).port
    assert port is not None
    async with fault_proxy(port) as network, world.server() as server:
        number, before = 0, ""

        async def suffer(name: str) -> str:
            nonlocal number, before
            host.serve(name, content(name))
            url = network.url(host.url)
            sha = await asyncio.to_thread(needs, world, url, name)
            await server.push(sha, before=before)
            number, before = number + 1, sha
            return await waits(server, number)

        await network.close()
        assert "cannot be fetched now" in await suffer("refused.tar.gz")
        await network.open()
        await well(server, number)
        for name, fault in (
            ("error.tar.gz", Babble(piece=ERROR, times=1)),
            ("reset.tar.gz", Reset(after=20)),
            ("nobody.tar.gz", Cut()),
        ):
            network.fault = fault
            assert "`dep`" in await suffer(name)
            await network.cure()
            await well(server, number)
        assert history(world, "SELECT sum(counted) FROM builds") == [(0,)]
        outcomes = history(world, "SELECT DISTINCT outcome FROM attempts ORDER BY 1")
        assert outcomes == [("succeeded",), ("waited",)]

        # One that is not what the lock says is the commit's fault.
        sha = await asyncio.to_thread(needs, world, host.url, "other.tar.gz")
        host.serve("other.tar.gz", content("something else"))
        await server.push(sha, before=before)
        ended = await server.finished(number + 1)
        assert ended["state"] == "failed"
        assert "run `nix flake update dep`" in ended["summary"]


async def well(server: Server, number: int) -> None:
    build = await server.finished(number)
    assert build["state"] == "succeeded", build
