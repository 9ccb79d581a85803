"""Builds with fresh inputs: made when an input moves, and apart from the branch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_reconcile import checked
from tests.end_to_end.test_results import rebuilt
from tests.fakes.flakes import InputServer, input_server, locked_tarball, sample
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

NAME = "moving.tar.gz"
OFTEN = {"flake_update": "200ms"}
UPDATE = "flake update: dep (1 input)"
BROKEN = {"flake.nix": '{ outputs = _: { value = throw "it is gone"; }; }'}


@pytest.fixture
def host() -> Iterator[InputServer]:
    with input_server() as running:
        yield running


def content(value: str) -> dict[str, str]:
    return {"flake.nix": f'{{ outputs = _: {{ value = "{value}"; }}; }}'}


def commit(world: World, host: InputServer, files: dict[str, str]) -> str:
    """A commit that locks the input as it is now."""
    url = host.serve(NAME, files)
    lock = locked_tarball(url, files)
    return world.origin.commit({**sample("inputs", URL=url), "flake.lock": lock})


async def asked(server: Server, times: int) -> None:
    """Wait until the server has looked so many times and found nothing new."""

    async def looked() -> bool:
        said = [line.get("message", "") for line in server.lines]
        return sum("no input has changed" in line for line in said) >= times

    await wait_until(looked, 60, what="a look at inputs that have not moved")


async def updated(server: Server, number: int) -> dict[str, Any]:
    """Wait until there is a build of this number, and it has ended."""

    async def there() -> bool:
        return number in [build for build, _, _ in made(server.world)]

    await wait_until(there, 60, what=f"build {number}")
    return await server.finished(number)


def nothing_below(folder: Path) -> bool:
    return list(folder.iterdir()) == []


def made(world: World) -> list[tuple[Any, ...]]:
    return history(world, "SELECT number, cause, state FROM builds ORDER BY number")


@pytest.mark.parametrize("world", ["daemon"], indirect=True)
async def test_an_input_that_moves_is_built_once_and_apart_from_the_branch(
    world: World, host: InputServer
) -> None:
    world.repository |= OFTEN
    value = world.folder.name
    sha = await asyncio.to_thread(commit, world, host, content(f"{value} 1"))
    async with world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        await asked(server, 2)
        assert made(world) == [(1, "push", "succeeded")]

        host.serve(NAME, content(f"{value} 2"))
        build = await updated(server, 2)
        assert build["summary"].startswith("1 target")
        told = {key: build[key] for key in ("state", "cause", "branch", "title")}
        assert told == {
            "state": "succeeded",
            "cause": "update",
            "branch": None,
            "title": UPDATE,
        }
        outputs = build["targets"][0]["outputs"]
        text = await asyncio.to_thread(Path(outputs["out"]).read_text)
        assert text == f"{value} 2\n"
        roots = list((world.state_dir / "roots").glob("*/*/*/2/out"))
        assert [root.parent.parent.parent.name for root in roots] == [b"-".hex()]

        host.serve(NAME, BROKEN)
        build = await updated(server, 3)
        assert (build["state"], build["title"]) == ("failed", UPDATE)
        assert "it is gone" in build["summary"]
        assert (await server.get("/build/status"))["last_commit"] == sha
        page = await server.get("/repos/octo-org/hello")
        (branch,) = page["branches"]
        assert (branch["last"]["number"], branch["broken_since"]) == (1, None)
        assert b"passing" in await server.text("/repos/octo-org/hello/badge.svg")
        await server.text("/builds/3")
        assert (await checked(server, "updates"))["ok"]
        status, _ = await server.post("/builds/3/retry")
        assert status == 202
        assert (await rebuilt(server, 3))["attempt"] == 2
        await server.stop()
    await still_the_same_after_a_restart(world, host, sha)


async def still_the_same_after_a_restart(
    world: World, host: InputServer, sha: str
) -> None:
    before = made(world)
    async with world.server() as server:
        seen = len(host.requests)
        await wait_until(lambda: len(host.requests) > seen + 2, 60, what="two looks")
        assert made(world) == before
        await server.stop()
    world.repository |= {"flake_update": "1d"}
    async with world.server() as server:
        # The last that the other one asked may have come late.
        seen = len(host.requests)
        assert (await checked(server, "updates"))["ok"]
        last = await asyncio.to_thread(world.origin.commit, {"README": "more"})
        await server.push(last, before=sha)
        assert (await server.finished(4))["state"] == "succeeded"
    assert len(host.requests) == seen
    assert {status.sha for status in world.github.taken} <= {sha, last}
    assert history(world, "SELECT DISTINCT build FROM outbox ORDER BY 1") == [
        (1,),
        (4,),
    ]


@pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
async def test_an_input_out_of_reach_is_told_and_asked_for_again(
    tmp_path: Path, github: FakeGitHub, nix: NixStore, host: InputServer
) -> None:
    origin = Origin(tmp_path / "origin.git")
    world = World(tmp_path, origin, github, nix.env, nix.program)
    world.repository |= OFTEN
    await asyncio.to_thread(commit, world, host, content("within reach"))
    gone = host.files.pop(f"/{NAME}")

    async with world.server() as server:

        async def troubled() -> bool:
            return not (await checked(server, "updates"))["ok"]

        await wait_until(troubled, 60, what="the trouble")
        detail = (await checked(server, "updates"))["detail"]
        assert "octo-org/hello: the flake input `dep` cannot be updated: " in detail
        assert "HTTP error 404" in detail
        assert made(world) == []
        host.files[f"/{NAME}"] = gone

        async def well() -> bool:
            return not await troubled()

        await wait_until(well, 60, what="the end of it")
        # Each look has a folder of its own, five times in a second.
        await wait_until(lambda: nothing_below(world.state_dir / "checkouts"), 60)
    assert made(world) == []
