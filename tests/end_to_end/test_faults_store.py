"""The store under a build's feet: garbage collectors and caches that let one down."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.end_to_end import impatient
from tests.end_to_end.server import World
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_faults_network import waits
from tests.fakes.flakes import HERE, one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin

# Where both versions do the same, one shows it; here the older one is the weaker.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.parametrize("nix_version", ["installed"], indirect=True),
]
BUILDS = 6
# Each commit has derivations of its own, and an input of all in its source.
CHAIN = """{ outputs = { self }: {
  packages.HERE = rec {
    one = derivation {
      name = "one"; system = "HERE"; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
      args = [ "-c" "echo NUMBER; cat ${./source} > $out" ];
    };
    two = derivation {
      name = "two"; system = "HERE"; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
      outputs = [ "out" "dev" ]; inherit one;
      args = [ "-c" "sleep 0.2; cat $one > $out; echo $out > $dev" ];
    };
    three = derivation {
      name = "three"; system = "HERE"; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
      inherit two; args = [ "-c" "cat $two > $out" ];
    };
  };
}; }
"""


def world_of(folder: Path, github: FakeGitHub, store: NixStore) -> World:
    origin = Origin(folder / "origin.git")
    world = World(folder, origin, github, store.env, store.program)
    world.program = impatient.PROGRAM
    return world


def chain(number: int) -> dict[str, str]:
    text = CHAIN.replace("HERE", HERE).replace("NUMBER", str(number))
    return {"flake.nix": text, "source": f"source {number}\n"}


async def run(store: NixStore, program: str, *args: str) -> tuple[int, str]:
    """Run one of Nix's programs; exit code and what it said."""
    argv = [str(Path(store.program).with_name(program)), *args]
    done = await asyncio.to_thread(
        subprocess.run, argv, env=dict(store.env), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


@contextlib.asynccontextmanager
async def garbage_collected(store: NixStore) -> AsyncIterator[list[str]]:
    """Collect without a pause for as long as the block lasts; what each run said."""
    runs: list[str] = []
    enough = asyncio.Event()

    async def collect() -> None:
        while not enough.is_set():
            code, said = await run(store, "nix-store", "--gc")
            assert code == 0, said
            runs.append(said)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect())
        yield runs
        enough.set()


async def test_what_is_green_is_in_the_store_whatever_the_garbage_collector_does(
    tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    world = world_of(tmp_path, github, fresh_nix)
    before = ""
    async with world.server() as server, garbage_collected(fresh_nix) as runs:
        for number in range(1, BUILDS + 1):
            sha = await asyncio.to_thread(world.origin.commit, chain(number))
            await server.push(sha, before=before)
            before = sha
            build = await server.finished(number)
            assert build["state"] == "succeeded", build
            outputs = [
                path
                for target in build["targets"]
                for path in target["outputs"].values()
            ]
            assert len(outputs) == 4
            code, said = await run(fresh_nix, "nix-store", "--check-validity", *outputs)
            assert code == 0, (number, said)
        assert len(runs) >= BUILDS
    assert {status.state for status in github.taken} <= {"pending", "success"}


@dataclass
class Lender:
    """A binary cache over HTTP that serves `folder`, as long as `mood` lets it."""

    folder: Path
    mood: str = "good"
    asked: list[str] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        self.asked.append(name)
        is_nar = name.startswith("nar/")
        if self.mood == "broken" or (self.mood == "broken downloads" and is_nar):
            return web.Response(status=500)
        if self.mood == "stalling downloads" and is_nar:
            response = web.StreamResponse()
            response.content_length = 10_000
            await response.prepare(request)
            await response.write(b"x")
            await asyncio.sleep(3600)
        file = self.folder / name
        if not await asyncio.to_thread(file.is_file):
            return web.Response(status=404)
        body = await asyncio.to_thread(file.read_bytes)
        if self.mood == "lying" and is_nar:
            body = body.replace(b"made at home", b"made by them")
        if self.mood == "babbling" and name.endswith(".narinfo"):
            body = b"StorePath: \0\xff\n" * 100
        return web.Response(body=body)


@contextlib.asynccontextmanager
async def lender(folder: Path) -> AsyncIterator[tuple[Lender, str]]:
    """The cache and its address."""
    lent = Lender(folder)
    application = web.Application()
    application.router.add_get("/{name:.+}", lent.serve)
    async with TestServer(application, shutdown_timeout=0) as server:
        yield lent, str(server.make_url("")).rstrip("/")


MOODS = ("broken downloads", "stalling downloads", "lying", "babbling")
HOME_MADE = "echo building here; echo made at home > $out"


async def fill_cache(store: NixStore, folder: Path, flakes: Path) -> str:
    """Build a package for each mood into a signed cache, and forget it; the public key."""
    secret, public = folder.with_name("secret"), folder.with_name("public")
    code, said = await run(
        store,
        "nix-store",
        "--generate-binary-cache-key",
        "c-1",
        str(secret),
        str(public),
    )
    assert code == 0, said
    target = f"file://{folder}?secret-key={secret}&compression=none"
    for mood in (*MOODS, "good", "broken"):
        flake = flakes / mood.replace(" ", "-")
        flake.mkdir(parents=True)
        text = one_package(HOME_MADE, name=flake.name)["flake.nix"]
        (flake / "flake.nix").write_text(text)
        built = f"path:{flake}#{flake.name}"
        for argv in (["build", "--no-link", built], ["copy", "--to", target, built]):
            code, said = await run(store, "nix", *argv)
            assert code == 0, said
    code, said = await run(store, "nix-store", "--gc")
    assert code == 0, said
    return public.read_text().strip()


async def test_a_cache_that_nix_cannot_use_is_done_without(
    tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    """Down, broken, stalling, lying: what cannot be fetched is built."""
    world = world_of(tmp_path, github, fresh_nix)
    public = await fill_cache(fresh_nix, tmp_path / "cache", tmp_path / "flakes")
    async with lender(tmp_path / "cache") as (lent, url):
        with (fresh_nix.root / "etc/nix.conf").open("a") as conf:
            conf.write(f"substituters = {url}\ntrusted-public-keys = {public}\n")
            conf.write("download-attempts = 1\nstalled-download-timeout = 5\n")
            conf.write("narinfo-cache-positive-ttl = 0\n")
        async with world.server() as server:
            before = ""

            async def build(mood: str, number: int) -> bytes:
                nonlocal before
                name = mood.replace(" ", "-")
                sha = world.origin.commit(one_package(HOME_MADE, name=name))
                await server.push(sha, before=before)
                before = sha
                ended = await server.finished(number)
                assert ended["state"] == "succeeded", (mood, ended)
                (target,) = ended["targets"]
                output = Path(target["outputs"]["out"])
                said = await asyncio.to_thread(output.read_text)
                assert said == "made at home\n", mood
                return await server.text(f"/builds/{number}/log")

            assert b"building here" not in await build("good", 1)
            for number, mood in enumerate(MOODS, 2):
                lent.mood = mood
                assert b"building here" in await build(mood, number), mood
            # One that fails whatever it is asked is waited for, where Nix gives up.
            lent.mood = "broken"
            sha = world.origin.commit(one_package(HOME_MADE, name="broken"))
            await server.push(sha, before=before)
            number = len(MOODS) + 2
            reason = await waits(server, number)
            assert "does not work" in reason or "for want of a cache" in reason
            lent.mood = "good"
            assert (await server.finished(number))["state"] == "succeeded"
    assert history(world, "SELECT sum(counted) FROM builds") == [(0,)]
    outcomes = {row[0] for row in history(world, "SELECT outcome FROM attempts")}
    assert "failed" not in outcomes
