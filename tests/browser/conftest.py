"""One server with a day's builds, a small one to be changed, and one browser for all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import ChromiumMissing, chromium, find_chromium
from tests.end_to_end.server import Server, World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixMissing, NixStore, find_nix, private_store
from tests.fakes.repository import Origin
from tests.fakes.showcase import showcase

TOKEN = "correct-horse-battery-staple"
# What `small` builds: each commit says itself how it goes.
CI = "#!/bin/sh\ntest ! -e slow || sleep 600\ntest ! -e broken\n"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    try:
        find_chromium()
    except ChromiumMissing as error:
        pytest.skip(f"{error}; no page was looked at in a browser")
    async with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def store() -> Iterator[NixStore]:
    """A private store of a real Nix."""
    try:
        program = find_nix("installed")
    except NixMissing as error:
        pytest.skip(f"{error}; no page was looked at in a browser")
    with private_store(program) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(
    store: NixStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[World]:
    """A world of the file's own, with a real Nix."""
    folder = tmp_path_factory.mktemp("world")
    async with FakeGitHub() as github:
        origin = Origin(folder / "origin.git")
        yield World(folder, origin, github, store.env, store.program)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(
    browser: Browser, store: NixStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """The server of tests/fakes/showcase.py; its builds are only looked at."""
    folder = tmp_path_factory.mktemp("house")
    async with FakeGitHub() as github:
        origin = Origin(folder / "origin.git")
        world = World(folder, origin, github, store.env, store.program)
        async with showcase(world) as server:
            yield server


@asynccontextmanager
async def commands(folder: Path, extra: str = "") -> AsyncIterator[Server]:
    """A server without Nix, which runs `./ci`: build 1 is good, 2 has failed."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    async with FakeGitHub() as github:
        origin = Origin(folder / "origin.git")
        world = World(folder, origin, github, environ, "nix", extra=extra)
        world.repository = {"builder": "command", "command": ["./ci"]}
        world.build = {"parallel": 1}
        async with world.server() as server:
            for number, broken in enumerate((None, ""), 1):
                await commit(server, {"broken": broken})
                await server.finished(number)
            yield server


async def commit(server: Server, files: Mapping[str, str | None]) -> str:
    """Commit and tell the server; returns the commit's SHA."""
    origin = server.world.origin
    before = await asyncio.to_thread(origin.find, "dev")
    sha = await asyncio.to_thread(
        lambda: origin.commit({"ci": CI, **files}, executable=["ci"])
    )
    await server.push(sha, before=before or "")
    return sha


@pytest_asyncio.fixture(loop_scope="session")
async def small(browser: Browser, tmp_path: Path) -> AsyncIterator[Server]:
    """A server of the test's own. The browser first: it may be missing."""
    async with commands(tmp_path) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(browser: Browser, tmp_path: Path) -> AsyncIterator[Server]:
    """The same, and it asks for TOKEN."""
    (tmp_path / "api-token").write_text(TOKEN)
    extra = f'[api]\ntoken_file = "{tmp_path}/api-token"'
    async with commands(tmp_path, extra) as server:
        yield server
