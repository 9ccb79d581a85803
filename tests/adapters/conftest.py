"""Fixtures of the adapters' tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.adapters.sandbox import Sandbox
from tests.adapters.nix_bench import Bench, bench_of
from tests.adapters.nix_cases import Site, behind_socket, direct
from tests.fakes.flakes import InputServer, input_server
from tests.fakes.nix_stores import NixStore


@pytest.fixture(scope="session", params=["child", "socket"])
def site(
    request: pytest.FixtureRequest, nix: NixStore, nix_daemon_store: NixStore
) -> Site:
    """A store, reached by a child daemon, then one by its socket; for each Nix."""
    if request.param == "child":
        return Site(nix, direct(nix))
    return Site(nix_daemon_store, behind_socket(nix_daemon_store))


@pytest.fixture
def bubblewrap() -> Sandbox:
    """The real sandbox."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("bubblewrap is not installed: run `make setup`")
    return Sandbox(bwrap)


@pytest.fixture
async def bench(nix: NixStore, bubblewrap: Sandbox, tmp_path: Path) -> Bench:
    """An evaluator with a store of its own, for each Nix."""
    return await bench_of(nix, bubblewrap, tmp_path)


@pytest.fixture
def input_host() -> Iterator[InputServer]:
    """A server on loopback for the inputs of flakes."""
    with input_server() as running:
        yield running
