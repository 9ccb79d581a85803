"""Flakes and locks that want to learn what they must not, or to reach others."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.adapters.sandbox import Sandbox
from ci.errors import CommitFault, HostFault
from tests.adapters.nix_bench import CANARY, Bench, bench_of
from tests.fakes.flakes import HERE, InputServer, locked, sample
from tests.fakes.nix_stores import NixStore
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
        "OTHER_PATH": str(other.path),
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


async def test_no_way_leads_into_the_directories_of_the_server(
    hostile: tuple[Bench, Secrets, dict[str, str]],
) -> None:
    bench, _, words = hostile
    files = sample("hostile-places", **words)
    results = await bench.evaluate(bench.origin.commit(files), "packages.*")
    harmless = {name for name, result in results.items() if result.error is None}
    assert harmless == {"packages.harmless", "packages.variable", "packages.exists"}
    assert {b"trace: seen:\n", b"trace: exists:\n"} <= set(bench.said)
    assert len(results) == len(re.findall(" = (?:read|tell) ", files["flake.nix"]))
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


def flake(packages: str, inputs: str = "") -> dict[str, str]:
    """A flake with these packages."""
    outputs = f"{{ packages.{HERE} = {packages}; }}"
    return {"flake.nix": f"{{ {inputs} outputs = {{ self, ... }}: {outputs}; }}"}


def doubled(times: int) -> str:
    """An expression for 16 × 2^times characters."""
    return f'(builtins.foldl\' (a: _: a + a) "{"x" * 16}" (builtins.genList (n: n) {times}))'


DERIVATION = f'derivation {{ name = "x"; system = "{HERE}"; builder = "b"; }}'
NUMBERED = f'n: {{ name = "p${{toString n}}"; value = {DERIVATION}; }}'
OUTPUT = f'n: {{ name = "o${{toString n}}"; value.outPath = {doubled(12)}; }}'
URL = {"type": "tarball", "url": "https://flakes.example/x.tar.gz"}
CYCLE = {"nodes": {"root": {"inputs": {"a": "root"}}}, "root": "root", "version": 7}
WITH_A = flake(f"{{ a = {DERIVATION}; }}", 'inputs.a.url = "github:x/y";')

MONSTERS: dict[str, tuple[dict[str, str], str]] = {
    "a hundred thousand targets": (
        flake(f"builtins.listToAttrs (builtins.genList ({NUMBERED}) 100000)"),
        "100000 targets match, and at most 5000",
    ),
    "a long name": (
        flake(f'{{ "{"n" * 300}" = {DERIVATION}; }}'),
        "the name of an attribute is longer than 255 characters: nnn",
    ),
    "a long name that ends Nix": (
        flake(f'{{ "{"n" * 300}" = builtins.abort "no"; }}'),
        "evaluation aborted with the following error message: 'no'",
    ),
    "outputs without end": (
        flake(
            "{ a = builtins.listToAttrs (builtins.genList "
            f'({OUTPUT}) 1000) // {{ type = "derivation"; drvPath = "d"; '
            'outputs = builtins.genList (n: "o${toString n}") 1000; }; }'
        ),
        "what its targets are called is longer than 32 MiB",
    ),
    "a lock that is its own input": (
        {**WITH_A, "flake.lock": json.dumps(CYCLE)},
        "lock file contains cycle to root node",
    ),
    "a lock with a long input": (
        {**WITH_A, "flake.lock": locked("a", {**URL, "ref": "x" * 99_999}, URL)},
        "flake.lock says too much about the input `a`",
    ),
    "a long lock": (
        {**WITH_A, "flake.lock": " " * 5_000_000},
        "flake.lock has 5000000 bytes",
    ),
    "a deep lock": (
        {**WITH_A, "flake.lock": "[" * 100_000},
        "flake.lock is not a lock file",
    ),
    "a flake beside itself": (
        {"link/x": "", "README": "no flake"},
        "there is no flake.nix in the root",
    ),
}


@pytest.mark.parametrize("monster", MONSTERS)
async def test_a_monster_is_the_commits_fault_and_costs_us_little(
    bench: Bench, monster: str
) -> None:
    files, words = MONSTERS[monster]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CommitFault) as caught:
        await bench.evaluate(bench.origin.commit(files), "packages.*")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert words in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert grown < 100 * 1024, f"{grown} KiB for {monster}"


async def test_inputs_that_follow_each_other_come_to_an_end(bench: Bench) -> None:
    """Nix 2.8 gives such inputs up for none at all, today's refuses them."""
    inputs = 'inputs.a.follows = "b"; inputs.b.follows = "a";'
    root = {"inputs": {"a": ["b"], "b": ["a"]}}
    lock = json.dumps({"nodes": {"root": root}, "root": "root", "version": 7})
    files = flake(f"{{ a = {DERIVATION}; }}", inputs)
    sha = bench.origin.commit({**files, "flake.lock": lock})
    if bench.store.version < (2, 20):
        assert list(await bench.evaluate(sha, "packages.*")) == ["packages.a"]
        return
    with pytest.raises(CommitFault, match="follow cycle detected"):
        await bench.evaluate(sha, "packages.*")


async def test_a_flake_that_is_a_link_out_of_its_tree(bench: Bench) -> None:
    secret = Path(bench.store.root) / "secret.nix"
    secret.write_text(f'{{ outputs = _: throw "{CANARY}"; }}')
    for target in (str(secret), "/etc/passwd", "x\n" + "a" * 40 + " blob 5\n"):
        sha = bench.origin.commit({}, links={"flake.nix": target})
        with pytest.raises(CommitFault, match=r"there is no flake\.nix in the root"):
            await bench.evaluate(sha, "packages.*")
    sha = bench.origin.commit(
        {"flake.nix": None, "d/flake.nix": flake("{ }")["flake.nix"]},
        links={"d/flake.lock": str(secret), "d/x": str(secret.parent)},
    )
    with pytest.raises(CommitFault, match=r"d/flake\.lock'"):
        await bench.evaluate(sha, "packages.*", directory="d")
    assert CANARY not in b"".join(bench.said).decode()


async def test_ten_thousand_inputs_are_asked_for_in_pieces(
    bench: Bench, input_host: InputServer
) -> None:
    """More than fits on a command line; the first that cannot be had ends it."""
    nodes: dict[str, object] = {"root": {"inputs": {}}}
    for number in range(10_000):
        url = {"type": "tarball", "url": f"{input_host.url}/{number}.tar.gz"}
        pinned = {**url, "narHash": f"sha256-{'A' * 43}="}
        nodes[f"\x1b[31mred{number}"] = {"locked": pinned, "original": url}
    lock = json.dumps({"nodes": nodes, "root": "root", "version": 7})
    sha = bench.origin.commit({**flake("{ }"), "flake.lock": lock})
    with pytest.raises(HostFault) as caught:
        await bench.fetch_inputs(sha)
    assert r"the locked flake input `\x1b[31mred0` cannot be fetched" in str(
        caught.value
    )
    assert 1 <= len(set(input_host.requests)) < 1000
    log = b"".join(bench.said)
    assert rb"fetching the flake input \x1b[31mred0, \x1b[31mred1, " in log
    assert len(log) < 10_000


async def test_the_log_of_an_evaluation_passes_without_staying(bench: Bench) -> None:
    """One line of 32 MiB, and fifty thousand short ones."""
    lines = f'builtins.foldl\' (a: n: builtins.trace "line ${{toString n}}" a) ({DERIVATION})'
    both = f"builtins.trace {doubled(21)} ({lines} (builtins.genList (n: n) 50000))"
    sha = bench.origin.commit(flake(f"{{ a = {both}; }}"))
    seen = 0

    def say(chunk: bytes) -> None:
        nonlocal seen
        seen += len(chunk)

    url = await bench.url(sha)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = await bench.evaluator.evaluate(
        url,
        ["packages.*"],
        mirror=bench.mirror.path,
        cache=bench.cache,
        import_from_derivation=False,
        say=say,
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert results[0].error is None
    assert seen > 32 * 2**20
    assert grown < 16 * 1024, f"{grown} KiB"


async def test_what_is_built_for_an_evaluation_ends_with_it(
    nix: NixStore, bubblewrap: Sandbox, tmp_path: Path
) -> None:
    """Import from derivation, allowed: it builds for as long as an evaluation may take."""
    # The builder must have begun by then.
    bench = await bench_of(nix, bubblewrap, tmp_path, timeout=8.0)
    # That no other sleep of this host sleeps.
    seconds = str(8 * 10**9 + int.from_bytes(os.urandom(4)))
    built = (
        f'import (derivation {{ name = "slow"; system = "{HERE}"; builder = "/bin/sh"; '
        f'PATH = "/bin:/usr/bin"; args = [ "-c" "setsid sleep {seconds}" ]; }})'
    )
    sha = bench.origin.commit(flake(f"{{ a = {built}; }}"))
    with pytest.raises(CommitFault, match="took longer than 8s"):
        await bench.evaluate(sha, "packages.*", building=True)

    def alive() -> bool:
        argv = ["pgrep", "--full", "--runstates", "DRST", f"sleep {seconds}"]
        return subprocess.run(argv, capture_output=True).returncode == 0

    assert not await asyncio.to_thread(alive), "the builder outlived the evaluation"
