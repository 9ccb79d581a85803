"""The ground the other tests stand on: private stores, the loop guard, the waiting."""

from __future__ import annotations

import ast
import asyncio
import os
import threading
import time
import types
from pathlib import Path

import pytest
from blockbuster import BlockingError

import ci
from tests.end_to_end.wire import USUAL, going_on
from tests.fakes.loop_guard import ALLOWED, Allowance
from tests.fakes.nix_stores import NixStore
from tests.fakes.tree import CHECKOUT
from tests.fakes.waiting import wait_until, wait_until_sync

DERIVATION = """
derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh";
  PATH = "/bin:/usr/bin"; args = [ "-c" "echo built > $out" ]; }}
"""


def _build(store: NixStore, name: str) -> Path:
    expression = DERIVATION.format(name=name)
    return Path(
        store.run("build", "--impure", "--expr", expression, "--no-link", "--json")
        .split('"out":"')[1]
        .split('"')[0]
    )


def test_private_store_builds_in_its_own_directory(nix: NixStore) -> None:
    output = _build(nix, "direct")
    assert output.parent == nix.root / "store"
    assert output.read_text() == "built\n"


def test_daemon_store_builds_through_its_daemon(nix_daemon_store: NixStore) -> None:
    output = _build(nix_daemon_store, "served")
    assert output.parent == nix_daemon_store.root / "store"
    log = (nix_daemon_store.root / "nix-daemon.log").read_text()
    assert "accepted connection" in log


def test_stores_know_which_nix_they_use(fresh_nix: NixStore) -> None:
    assert fresh_nix.version >= (2, 8)
    assert fresh_nix.run("--version").split()[-1] == fresh_nix.version_name


def _module_of_ci(source: str) -> types.ModuleType:
    module = types.ModuleType("ci.sample")
    file = str(Path(ci.__path__[0]) / "sample.py")
    exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102 - our own text
    return module


async def test_blocking_the_loop_in_our_code_fails_the_test() -> None:
    sample = _module_of_ci("import time\ndef block(): time.sleep(0.001)")
    with pytest.raises(BlockingError):
        sample.block()
    await asyncio.to_thread(sample.block)


@pytest.mark.parametrize("allowance", ALLOWED, ids=lambda allowance: allowance.file)
def test_what_may_block_the_loop_still_exists(allowance: Allowance) -> None:
    body = ast.parse((CHECKOUT / allowance.file).read_text(encoding="utf-8"))
    defined = {
        node.name
        for node in ast.walk(body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert allowance.functions <= defined


async def test_waiting_takes_functions_and_coroutines_and_names_what_it_missed() -> (
    None
):
    started = time.monotonic()

    async def later() -> bool:
        return time.monotonic() - started > 0.05

    assert await wait_until(later, 5)
    assert await wait_until(lambda: "found", 0) == "found"
    with pytest.raises(AssertionError, match="a miracle not within 0 s"):
        await wait_until(lambda: "", 0, what="a miracle")


def test_a_clock_that_stands_still_with_the_disk() -> None:
    flushed = threading.Event()
    with going_on(flush=lambda file: flushed.wait()) as clock:
        begun, shown = time.monotonic(), clock()
        wait_until_sync(lambda: time.monotonic() - begun > 1)
        assert clock() - shown <= USUAL
        shown, again = clock(), time.monotonic()
        flushed.set()
        wait_until_sync(lambda: clock() - shown > 2 * USUAL)
        assert clock() - shown <= time.monotonic() - again


def test_environment_of_the_developer_is_not_seen() -> None:
    foreign = [name for name in os.environ if name.startswith("BUILD_SERVER_")]
    assert foreign == []
    assert "CREDENTIALS_DIRECTORY" not in os.environ
