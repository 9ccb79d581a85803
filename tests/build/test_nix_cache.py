"""Nix's cache of a repository: when it is suspected, and how it is got rid of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.build.nix_cache import NixCache
from ci.errors import CommitFault, HostFault, HostLimit, NetworkDown

# As Nix 2.8 and 2.34 put it when files of their cache were cut, changed or removed.
OF_DAMAGE = (
    CommitFault(
        "looking up file 'flake.nix': object not found (libgit2 error code = 9)"
    ),
    CommitFault("evaluation took longer than 2h 0m"),
    CommitFault("evaluation asked the network, through git, but it has none"),
    HostFault(
        "Nix cannot read the mirror: executing SQLite statement 'pragma': malformed"
    ),
    HostFault("Nix cannot read the mirror: Failed to open archive (Source threw)"),
)
OF_OTHERS = (
    CommitFault("undefined variable 'foo' (flake.nix:3)"),
    CommitFault("attribute `web` missing"),
    HostFault("the locked flake input `dep` cannot be fetched: HTTP error 404"),
    HostLimit("evaluation needed more than 4 GiB of memory, in libgit2"),
    NetworkDown("the flake input `dep` cannot be fetched now: program 'git' failed"),
)


def used(path: Path) -> NixCache:
    cache = NixCache(path)
    cache.open()
    (path / "nix").mkdir(exist_ok=True)
    cache.open()
    return cache


def test_what_sounds_like_it_is_believed_of_a_fresh_cache_only(tmp_path: Path) -> None:
    fresh = NixCache(tmp_path / "fresh")
    fresh.open()
    assert fresh.fresh
    cache = used(tmp_path / "used")
    assert not cache.fresh
    assert [cache.suspected(error) for error in OF_DAMAGE] == [True] * len(OF_DAMAGE)
    assert not any(fresh.suspected(error) for error in OF_DAMAGE)


@pytest.mark.parametrize("error", OF_OTHERS, ids=str)
def test_other_ends_are_not_its_doing(
    error: CommitFault | HostFault, tmp_path: Path
) -> None:
    assert not used(tmp_path / "cache").suspected(error)


def test_it_is_gone_at_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cache = used(path)
    grave = path.with_name("cache.damaged")
    (grave / "from before").mkdir(parents=True)
    cache.discard()
    cache.discard()
    assert list(tmp_path.iterdir()) == []
    cache.open()
    assert cache.fresh
