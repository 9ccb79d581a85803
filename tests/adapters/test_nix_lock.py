"""Reading flake.lock."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings, strategies as st

from ci.adapters.nix_eval.lock import own_inputs, parse_lock
from ci.adapters.nix_eval.update import changed_inputs
from ci.errors import CommitFault
from tests.fakes.flakes import locked

HASH = "sha256-eHGG1ys6YhMX8Fie7785PRHNU1E6Yy9EaJKwfme6lH4="


def test_inputs_and_where_nix_puts_them() -> None:
    """The path is what `nix-store --print-fixed-path --recursive` says for the hash."""
    original = {"type": "tarball", "url": "https://flakes.example/x.tar.gz"}
    lock = locked("dep", {**original, "narHash": HASH, "dir": "sub"}, original)
    (dep,) = parse_lock(lock.encode())
    assert dep.name == "dep"
    assert dep.locked == {**original, "narHash": HASH}
    store = Path("/nix/store")
    expected = store / "0s4mlrcy7mqgfkpjfcjckmka2ylrlzli-source"
    assert dep.store_path(store) == expected


@pytest.mark.parametrize("nar_hash", [None, "", "sha256-!", "sha512-AAAA", 7])
def test_without_a_usable_hash_nobody_knows_where(nar_hash: object) -> None:
    lock = locked("dep", {"type": "github", "narHash": nar_hash}, {})
    (dep,) = parse_lock(lock.encode())
    assert dep.store_path(Path("/nix/store")) is None


def test_inputs_of_the_flakes_own_directory_come_with_it() -> None:
    own = {"type": "path", "path": "./sub"}
    assert parse_lock(locked("dep", own, own).encode()) == ()
    assert parse_lock(b'{"nodes": {"root": {}}, "root": "root", "version": 7}') == ()
    assert parse_lock(None) == ()


@pytest.mark.parametrize(
    "place",
    [
        {"type": "path", "path": "/srv"},
        {"type": "git", "url": "file:///srv"},
        {"type": "git", "url": "/srv"},
        {"type": "git", "url": "../srv"},
        {"type": "git", "url": ""},
        {"type": "tarball", "url": "FILE:/srv"},
        {"type": "hg", "url": "hg+file:///srv"},
        {"type": "future", "url": "path:/srv"},
    ],
)
def test_a_place_on_this_machine_is_refused(place: dict[str, str]) -> None:
    with pytest.raises(CommitFault, match="a place on the machine that wrote it"):
        parse_lock(locked("dep", place, place).encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["type", "path", "url", "narHash", "name", "dir", "rev"])


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_the_commits_fault(content: bytes) -> None:
    with pytest.raises(CommitFault, match=r"flake\.lock is not a lock file"):
        parse_lock(content)


NODES = st.fixed_dictionaries(
    {"locked": st.dictionaries(KEYS, JSON | st.just(HASH))}, optional={"inputs": JSON}
)


@settings(max_examples=100)
@given(st.dictionaries(st.text(), NODES), JSON | st.just("root"))
@example({}, [])
@example({}, {})
def test_no_lock_breaks_the_server(nodes: dict[str, object], root: object) -> None:
    content = json.dumps({"nodes": nodes, "root": root}).encode()
    try:
        inputs = parse_lock(content)
    except CommitFault:
        return
    own = own_inputs(content)
    assert set(changed_inputs(None, content)) == own
    assert changed_inputs(content, content) == []
    for item in inputs:
        json.dumps(item.locked, allow_nan=False)
        path = item.store_path(Path("/nix/store"))
        assert path is None or not path.exists()


def test_what_is_nested_too_deeply_is_no_lock() -> None:
    """About where a reader of JSON gives up, writing one gives up as well."""
    for depth in (1, 900, *range(960, 1010), 100_000):
        deep = '{"a":' * depth + "1" + "}" * depth
        for node in (f'{{"locked": {{"a": {deep}}}}}', f'{{"inputs": {deep}}}'):
            content = f'{{"nodes": {{"root": {node}}}, "root": "root"}}'.encode()
            for read in (parse_lock, own_inputs, lambda it: changed_inputs(None, it)):
                with suppress(CommitFault):
                    read(content)
