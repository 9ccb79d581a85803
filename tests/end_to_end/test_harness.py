"""harness = "home-manager": a flake with nothing but modules, each built as a home.

nixpkgs and home-manager are stand-ins, fetched by the hashes of a lock as the real ones.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, World
from tests.fakes import tree
from tests.fakes.flakes import InputServer, input_server, sample
from tests.fakes.github import FakeGitHub
from tests.fakes.harness import INPUTS, OURS, locked_tarball, write_harness
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin

THEIRS = "nixpkgs of the flake"
FIXED = {
    "flake.nix": """\
{
  outputs = { self, ... }: {
    homeManagerModules.default = { home.text = "mended"; };
  };
}
"""
}


@dataclass(frozen=True)
class Bench:
    """A world whose server has a harness with stand-ins for its inputs.

    Its program is this checkout's, laid out as the wheel lays it out.
    """

    world: World
    harness: Path
    inputs: InputServer
    store: NixStore

    def says(self, build: dict[str, Any]) -> dict[str, str]:
        """What is in the home of each module, or why there is none."""
        return {
            target["name"].removeprefix("homeModules."): target["error"]
            or Path(target["outputs"]["out"]).read_text().strip()
            for target in build["targets"]
        }


def laid_out(folder: Path, inputs: InputServer) -> Path:
    """`ci` below `folder`/site, with a harness of stand-ins; the harness's folder."""
    package = folder / "site/ci"
    write_harness(package / "_harness", inputs)
    for part in (tree.CHECKOUT / "ci").iterdir():
        (package / part.name).symlink_to(part)
    (package / "_migrations").symlink_to(tree.CHECKOUT / "migrations")
    return package / "_harness"


@pytest.fixture
def inputs() -> Iterator[InputServer]:
    with input_server() as server:
        yield server


@pytest.fixture
async def bench(
    tmp_path: Path,
    origin: Origin,
    github: FakeGitHub,
    nix: NixStore,
    inputs: InputServer,
) -> Bench:
    harness = await asyncio.to_thread(laid_out, tmp_path, inputs)
    path = [str(tmp_path / "site"), *filter(None, sys.path)]
    environ = {**nix.env, "PYTHONPATH": ":".join(path)}
    world = World(tmp_path, origin, github, environ, nix.program)
    world.repository = {"harness": "home-manager"}
    return Bench(world, harness, inputs, nix)


async def by_hand(bench: Bench, sha: str, module: str) -> str:
    """What `nix build --override-input` makes of the module: a store path."""
    tested = f"git+{bench.world.origin.url}?ref=dev&rev={sha}"
    argv = ["build", f"path:{bench.harness}#{module}", "--no-link", "--json"]
    argv += ["--override-input", "tested", tested, "--no-write-lock-file"]
    answer = json.loads(await asyncio.to_thread(bench.store.run, *argv))
    return str(answer[0]["outputs"]["out"])


async def test_each_module_is_a_home(bench: Bench) -> None:
    world, inputs = bench.world, bench.inputs
    async with world.server() as server:
        first = world.origin.commit(sample("only-modules"))
        build = await _built(server, first)
        assert build["state"] == "failed", str(build)
        said = bench.says(build)
        made = f"user with {OURS}, followed {OURS}"
        assert said["default"] == f"{made}: the default in /home/user"
        assert said["good"] == f"{made}: a good one"
        assert said["old"] == f"{made}: an old one"
        assert "terminal.theme must be one of light, dark" in said["broken"]
        assert "attribute 'nothing' missing" in said["unknown"]
        assert "flake.nix:8" in said["unknown"]
        assert {each["name"].split(".")[0] for each in build["targets"]} == {
            "homeModules"
        }
        failed = await world.github.wait_for(first, "failure")
        assert "2 of 5 failed" in failed.description
        for name in ("broken", "unknown"):
            context = f"build-server/homeModules.{name}"
            await world.github.wait_for(first, "failure", context=context)
        # Both were fetched, by their hashes, before anything of the commit was read.
        assert sorted(inputs.requests) == [f"/{name}.tar.gz" for name in INPUTS]

        good = next(t for t in build["targets"] if t["name"] == "homeModules.good")
        assert await by_hand(bench, first, "good") == good["outputs"]["out"]

        second = world.origin.commit(FIXED)
        build = await _built(server, second, before=first, number=2)
        assert build["state"] == "succeeded", str(build)
        assert bench.says(build) == {"default": f"{made}: mended"}
        assert len(inputs.requests) == len(INPUTS)


async def test_what_the_flake_brings_is_taken(bench: Bench) -> None:
    """Its own nixpkgs, and nothing of the harness's is fetched for it."""
    world, inputs = bench.world, bench.inputs
    node = locked_tarball(inputs, "own", sample("stand-in-nixpkgs", WORD=THEIRS))
    address = node["original"]["url"]
    nodes = {"nixpkgs": node, "root": {"inputs": {"nixpkgs": "nixpkgs"}}}
    flake = FIXED["flake.nix"].replace("{", f'{{ inputs.nixpkgs.url = "{address}";', 1)
    lock_text = json.dumps({"nodes": nodes, "root": "root", "version": 7})
    async with world.server() as server:
        own = world.origin.commit({"flake.nix": flake, "flake.lock": lock_text})
        build = await _built(server, own)
        assert build["state"] == "succeeded", str(build)
        says = bench.says(build)
        assert says == {"default": f"user with {THEIRS}, followed {THEIRS}: mended"}
        assert "/nixpkgs.tar.gz" not in inputs.requests

        none = world.origin.commit(
            {"flake.nix": "{ outputs = { self }: { }; }", "flake.lock": None}
        )
        build = await _built(server, none, before=own, number=2)
        assert build["state"] == "failed"
        assert "this flake exports no homeModules" in str(build["targets"])
        assert "export homeModules.default" in build["summary"]


async def _built(
    server: Server, sha: str, *, before: str = "", number: int = 1
) -> dict[str, Any]:
    await server.push(sha, before=before)
    return await server.finished(number)
