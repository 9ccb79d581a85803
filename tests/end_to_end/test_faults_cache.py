"""Green means fetchable, also when the cache is away, slow, or says what is not so."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.end_to_end import impatient
from tests.end_to_end.server import World
from tests.end_to_end.test_cache import KEY, make_key
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_faults_daemon import back
from tests.fakes.flakes import one_package
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin

pytestmark = pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
SCRIPT = "echo of the cache > $out"

# What the cache does with a package of this name, and what is then said of the build.
MOODS: Mapping[str, str] = {
    "good": "fetchable",
    "late": "fetchable",
    "absent": "does not have it",
    "strange-key": f"its signature by {KEY} does not fit",
    "another-path": "its narinfo is about ",
    "cut-short": "its narinfo cannot be used: ",
    "endless": "answers with more than a narinfo",
    "broken": "answered 500 for its narinfo",
    "slow": "",
}


@dataclass
class Cache:
    """A binary cache with a mood for each package; a hash belongs to one of `names`."""

    folder: Path
    strange: Path
    names: dict[str, str] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    down: bool = False

    async def serve(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if self.down and request.transport is not None:
            request.transport.abort()
        if name == "nix-cache-info":
            return web.Response(text="StoreDir: /nix/store\n")
        mood = self.names.get(name.removesuffix(".narinfo"), "")
        self.asked[mood] = self.asked.get(mood, 0) + 1
        return await self._answer(request, name, mood)

    async def _answer(
        self, request: web.Request, name: str, mood: str
    ) -> web.StreamResponse:
        if mood == "absent" or (mood == "late" and self.asked[mood] == 1):
            return web.Response(status=404)
        if mood == "broken":
            return web.Response(status=500)
        if mood == "slow":
            await asyncio.sleep(3600)
        if mood == "another-path":
            hashes = {mood: found for found, mood in self.names.items()}
            name = f"{hashes['good']}.narinfo"
        folder = self.strange if mood == "strange-key" else self.folder
        body = await asyncio.to_thread((folder / name).read_bytes)
        if mood == "cut-short":
            body = body[: body.index(b"NarHash")]
        if mood != "endless":
            return web.Response(body=body)
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(body * 100)


async def fill(store: NixStore, folder: Path, secret: Path, *names: str) -> Cache:
    """Build a package for each name and copy it into two caches, signed by two keys."""
    cache = Cache(folder / "www", folder / "strange")
    stranger = folder / "stranger"
    stranger.mkdir()
    program = str(Path(store.program).with_name("nix-store"))
    await asyncio.to_thread(make_key, stranger, program, dict(store.env))
    packages = []
    for name in names:
        flake = folder / "flakes" / name
        flake.mkdir(parents=True)
        (flake / "flake.nix").write_text(one_package(SCRIPT, name=name)["flake.nix"])
        packages.append(f"path:{flake}#{name}")
    built = json.loads(await call(store, "build", "--no-link", "--json", *packages))
    for found in built:
        path = Path(found["outputs"]["out"]).name
        cache.names[path[:32]] = path[33:]
    for where, key in (
        (cache.folder, secret),
        (cache.strange, stranger / "secret"),
    ):
        target = f"file://{where}?secret-key={key}&compression=none"
        await call(store, "copy", "--to", target, *packages)
    return cache


async def call(store: NixStore, *args: str) -> str:
    argv = [store.program, *args]
    done = await asyncio.to_thread(
        subprocess.run, argv, env=dict(store.env), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def cached_world(
    folder: Path, github: FakeGitHub, store: NixStore, *names: str, required: bool
) -> AsyncIterator[tuple[World, Cache]]:
    """A world whose builds ask a cache that has packages of these names."""
    world = World(
        folder, Origin(folder / "origin.git"), github, store.env, store.program
    )
    program = str(Path(store.program).with_name("nix-store"))
    public = await asyncio.to_thread(make_key, folder, program, dict(store.env))
    cache = await fill(store, folder, folder / "secret", *names)
    application = web.Application()
    application.router.add_get("/{name:.+}", cache.serve)
    async with TestServer(application, shutdown_timeout=0) as server:
        url = str(server.make_url("")).rstrip("/")
        world.program = impatient.PROGRAM
        world.extra = (
            f'[cache]\nurl = "{url}"\npublic_key = "{public}"\n'
            f"required = {str(required).lower()}\n"
        )
        yield world, cache


async def test_whatever_the_cache_says_the_summary_says_it_and_stays_green(
    tmp_path: Path, github: FakeGitHub, nix: NixStore
) -> None:
    """All moods at once, with one slot: waiting for a cache takes none."""
    cached = cached_world(tmp_path, github, nix, *MOODS, required=False)
    async with cached as (world, cache):
        world.build = {"parallel": 1}
        shas = [
            world.origin.commit(
                {"flake.nix": one_package(SCRIPT, name=name)["flake.nix"]}
            )
            for name in MOODS
        ]
        async with world.server() as server:
            await server.push(shas)
            builds = [await server.finished(n) for n in range(1, len(MOODS) + 1)]
        for (mood, words), build in zip(MOODS.items(), builds, strict=True):
            assert build["state"] == "succeeded", (mood, build)
            assert words in build["summary"], (mood, build["summary"])
            kind = "· fetchable" if words == "fetchable" else "· not fetchable yet: "
            assert kind in build["summary"], (mood, build["summary"])
        assert cache.asked["late"] == 2
        # Whoever waited in vain was still waiting when the next one had begun.
        rows = history(
            world,
            "SELECT build, started_at, finished_at FROM attempts ORDER BY started_at",
        )
        moods = list(MOODS)
        for (build, _, ended), (_, begun, _) in pairwise(rows):
            assert MOODS[moods[build - 1]] == "fetchable" or begun < ended, rows


@pytest.mark.faults
async def test_where_the_cache_is_required_its_absence_is_an_error_and_passes(
    tmp_path: Path, github: FakeGitHub, nix: NixStore
) -> None:
    cached = cached_world(tmp_path, github, nix, "wanted", required=True)
    async with cached as (world, cache):
        cache.down = True
        sha = world.origin.commit(
            {"flake.nix": one_package(SCRIPT, name="wanted")["flake.nix"]}
        )
        async with world.server() as server:
            await server.push(sha)
            await back(server, 1, "built, but not fetchable")
            cache.down = False
            build = await server.finished(1)
            assert build["state"] == "succeeded", build
            assert build["summary"].endswith("· fetchable")
            await github.wait_for(sha, "success")
    assert {status.state for status in github.taken} <= {"pending", "success"}
