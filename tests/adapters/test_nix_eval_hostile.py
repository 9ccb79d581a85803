"""Flakes and locks that want to learn what they must not, or to reach others."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.errors import CommitFault
from tests.adapters.nix_bench import CANARY, Bench
from tests.fakes.flakes import InputServer, locked, sample
from tests.fakes.repository import Origin


@dataclass(frozen=True)
class Secrets:
    """What nothing may show: `root` has a directory with the canary, and a program."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "state").mkdir(parents=True)
        (self.root / "state/token").write_text(CANARY)
        hook = self.root / "hook"
        hook.write_text(f"#!/bin/sh\necho > {self.root}/hooked\n")
        hook.chmod(0o755)

    def seen(self, *places: Path) -> bool:
        argv = ["grep", "-rlF", "--", CANARY, *map(str, places)]
        return subprocess.run(argv, capture_output=True).returncode == 0


@pytest.fixture
async def hostile(
    bench: Bench, input_host: InputServer, tmp_path: Path
) -> AsyncIterator[tuple[Bench, Secrets, dict[str, str]]]:
    """A bench beside secrets; whatever the test does, no canary may be seen after it."""
    secrets = Secrets(tmp_path / "secrets")
    other = Origin(tmp_path / "other")
    words = {
        "SECRET": str(secrets.root / "state"),
        "HOOK": str(secrets.root / "hook"),
        "URL": input_host.url,
        "OTHER": other.url,
        "OTHER_REV": other.commit(
            {"token": CANARY, "flake.nix": "{ outputs = _: { }; }"}
        ),
    }
    yield bench, secrets, words
    store = Path(bench.store.env["NIX_STORE_DIR"])
    assert not secrets.seen(store, bench.cache, Path(bench.store.env["NIX_LOG_DIR"]))
    assert CANARY.encode() not in b"".join(bench.said)
    assert not (secrets.root / "hooked").exists()
    assert input_host.requests == []


async def test_a_hostile_flake_learns_nothing_and_reaches_nobody(
    hostile: tuple[Bench, Secrets, dict[str, str]],
) -> None:
    bench, _, words = hostile
    files = sample("hostile", **words)
    state = words["SECRET"]
    sha = bench.origin.commit(files, links={"link": state})
    results = await bench.evaluate(sha, "packages.*")
    harmless = {name for name, result in results.items() if result.error is None}
    assert harmless == {"packages.harmless", "packages.variable", "packages.nixPath"}
    assert b"trace: seen:\n" in bench.said
    assert len(results) == files["flake.nix"].count(" = read ") + files[
        "flake.nix"
    ].count(" = tell ") + files["flake.nix"].count(" = import (derivation")
    assert not any(CANARY in (result.error or "") for result in results.values())


async def test_a_hostile_lock_is_refused_before_anything_is_fetched(
    hostile: tuple[Bench, Secrets, dict[str, str]],
) -> None:
    bench, _, words = hostile
    state = words["SECRET"]
    for place in (
        {"type": "path", "path": state},
        {"type": "path", "path": "/proc/self"},
        {"type": "git", "url": words["OTHER"], "rev": words["OTHER_REV"]},
        {"type": "git", "url": words["OTHER"].removeprefix("file://")},
        {"type": "tarball", "url": f"file://{state}/token"},
        {"type": "file", "url": f"FILE:{state}/token"},
        {"type": "hg", "url": f"file://{state}"},
    ):
        pinned = {**place, "narHash": "sha256-" + "A" * 43 + "="}
        lock = locked("dep", pinned, place)
        sha = bench.origin.commit({**sample("inputs", URL="x:y"), "flake.lock": lock})
        with pytest.raises(CommitFault, match=r"flake\.lock locks the input `dep` to"):
            await bench.fetch_inputs(sha)


async def test_an_unlocked_path_input_is_not_read(
    hostile: tuple[Bench, Secrets, dict[str, str]],
) -> None:
    bench, _, words = hostile
    hashed = f"path:{words['SECRET']}?narHash=sha256-{'A' * 43}%3D"
    for url in (f"path:{words['SECRET']}", hashed):
        flake = sample("inputs", URL=url)
        with pytest.raises(CommitFault):
            await bench.evaluate(bench.origin.commit(flake), "packages.*")
