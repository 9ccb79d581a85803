"""Updating a lock: the inputs as they are now, and nothing of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.nix_eval.lock import parse_lock
from ci.adapters.nix_eval.update import changed_inputs
from ci.adapters.sandbox import Sandbox
from ci.errors import CommitFault, HostFault, NetworkDown
from tests.adapters.nix_bench import CANARY, Bench, bench_of
from tests.fakes.flakes import InputServer, locked_tarball, nar_hash, sample
from tests.fakes.nix_stores import NixStore


def dependency(value: str, more: str = "") -> dict[str, str]:
    return {"flake.nix": f'{{ {more} outputs = _: {{ value = "{value}"; }}; }}'}


async def updated(
    bench: Bench, tmp_path: Path, files: dict[str, str], folder: str = "."
) -> bytes:
    """The lock of a commit of these files with its inputs updated."""
    mirror, scratch = bench.mirror, tmp_path / f"scratch-{time.monotonic_ns()}"
    await bench.url(sha := bench.origin.commit(files))
    bare = await mirror.amend(sha, "flake.lock", None, "without its lock")
    scratch.mkdir()
    url = mirror.own_url(bare, folder)
    return await bench.evaluator.updated_lock(url, mirror=mirror.path, scratch=scratch)


@pytest.mark.parametrize("folder", [".", "a folder/sub"])
async def test_an_input_is_locked_as_it_is_now(
    bench: Bench, input_host: InputServer, tmp_path: Path, folder: str
) -> None:
    name = f"now-{len(folder)}.tar.gz"
    url = input_host.serve(name, dependency("1"))
    flake, inside = sample("inputs", URL=url), "" if folder == "." else f"{folder}/"
    files = {f"{inside}{path}": text for path, text in flake.items()}
    first = await updated(bench, tmp_path, files, folder)
    assert changed_inputs(locked_tarball(url, dependency("1")).encode(), first) == []
    assert changed_inputs(None, first) == ["dep"]
    input_host.serve(name, dependency(name))
    second = await updated(bench, tmp_path, files, folder)
    assert changed_inputs(first, second) == ["dep"]
    (pinned,) = parse_lock(second)
    assert pinned.locked["narHash"] == nar_hash(dependency(name))
    path = pinned.store_path(Path(bench.store.env["NIX_STORE_DIR"]))
    assert path is not None
    assert not path.exists()

    sha = bench.origin.commit({**flake, "flake.lock": second.decode()})
    results = await bench.evaluate(sha, "packages.*")
    assert results["packages.default"].error is None
    assert path.exists()


async def test_what_an_input_names_on_this_machine_stays_here(
    nix: NixStore, bubblewrap: Sandbox, input_host: InputServer, tmp_path: Path
) -> None:
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "nix.conf").write_text(
        (Path(nix.env["NIX_CONF_DIR"]) / "nix.conf").read_text()
    )
    # What fetching may see, and nobody else.
    (conf / "netrc").write_text(CANARY)
    (tmp_path / "hidden").write_text(CANARY)
    bench = await bench_of(nix, bubblewrap, tmp_path, NIX_CONF_DIR=str(conf))
    for place, said in (
        (conf, "a place on the machine"),
        (tmp_path / "hidden", "hidden"),
        (Path("/proc/self/environ"), "/proc/self"),
    ):
        evil = dependency("x", _names(place))
        url = input_host.serve(f"evil-{place.name}.tar.gz", evil)
        for files in (evil, sample("inputs", URL=url)):
            with pytest.raises((CommitFault, HostFault), match=said):
                await updated(bench, tmp_path, files)
    assert not await asyncio.to_thread(_canary, Path(nix.env["NIX_STORE_DIR"]))
    assert not await asyncio.to_thread(_canary, bench.cache)


def _names(place: object) -> str:
    return f'inputs.it = {{ url = "path:{place}"; flake = false; }};'


def _canary(top: Path) -> bool:
    found = (Path(place) / name for place, _, names in os.walk(top) for name in names)
    return any(f.is_file() and CANARY.encode() in f.read_bytes() for f in found)


async def test_what_is_said_of_an_input_that_cannot_be_updated(
    nix: NixStore, bubblewrap: Sandbox, input_host: InputServer, tmp_path: Path
) -> None:
    bench = await bench_of(
        nix, bubblewrap, tmp_path, NIX_CONFIG="download-attempts = 1"
    )
    cases: list[tuple[str, type[HostFault], str]] = [
        ("http://127.0.0.1:1/closed.tar.gz", NetworkDown, "unable to download"),
        (f"{input_host.url}/gone.tar.gz", HostFault, "HTTP error 404"),
        ("git+http://127.0.0.1:1/closed.git", NetworkDown, "127.0.0.1"),
    ]
    for url, fault, message in cases:
        with pytest.raises(fault) as caught:
            await updated(bench, tmp_path, sample("inputs", URL=url))
        assert type(caught.value) is fault, caught.value
        assert message in str(caught.value)
        assert "the flake input `dep` cannot be updated: " in str(caught.value)
    with pytest.raises(HostFault, match="the flake's inputs cannot be updated: "):
        await updated(bench, tmp_path, {"flake.nix": "{ outputs = "})


def lock(**nodes: Any) -> bytes:
    return json.dumps({"nodes": nodes, "root": "root", "version": 7}).encode()


def test_an_input_has_changed_when_anything_below_it_has() -> None:
    def at(rev: str, **inputs: object) -> dict[str, Any]:
        return {"locked": {"rev": rev, "lastModified": 1}, "inputs": inputs}

    root = {"inputs": {"a": "a", "b": "b", "c": ["a"]}}
    old = lock(root=root, a=at("1"), b=at("1", deep="d", same=["a"]), d=at("1"))
    new = lock(root=root, a=at("2"), b=at("1", deep="e", same=["a"]), e=at("1"))
    assert changed_inputs(old, new) == ["a"]
    deeper = lock(root=root, a=at("2"), b=at("1", deep="e", same=["a"]), e=at("3"))
    assert changed_inputs(new, deeper) == ["b"]
    fewer = lock(root={"inputs": {"a": "a"}}, a=at("2"))
    assert changed_inputs(new, fewer) == ["b", "c"]


def test_a_strange_old_lock_is_only_another_one() -> None:
    new = lock(root={"inputs": {"a": "a"}}, a={"locked": {"rev": "1"}})
    ring = lock(root={"inputs": {"a": "a"}}, a={"locked": 7, "inputs": {"a": "a"}})
    for old in (lock(), lock(root={"inputs": [1]}), ring):
        assert changed_inputs(old, new) == ["a"]
