"""A world for each test: an origin, GitHub's stand-in, a Nix and a configuration."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.end_to_end.server import World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin


@pytest.fixture
async def github() -> AsyncIterator[FakeGitHub]:
    """GitHub's stand-in; the test fails when a request broke GitHub's description."""
    async with FakeGitHub() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin.git")


@pytest.fixture(params=["single-user", "daemon"])
async def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    origin: Origin,
    github: FakeGitHub,
    nix: NixStore,
    nix_daemon_store: NixStore,
) -> World:
    """A world whose server builds flakes with this Nix, on its own or by its daemon."""
    store = nix if request.param == "single-user" else nix_daemon_store
    return World(tmp_path, origin, github, store.env, store.program)


@pytest.fixture
async def command_world(tmp_path: Path, origin: Origin, github: FakeGitHub) -> World:
    """A world whose server runs `./ci` of each commit; no Nix at all."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    world = World(tmp_path, origin, github, environ, "nix")
    world.repository = {"builder": "command", "command": ["./ci"]}
    return world
