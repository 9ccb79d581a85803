"""Which versions have holes that matter here, and what is said of those that do not."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from ci.doctor import program_checks
from ci.doctor.known_holes import (
    MENDED,
    PACKAGES,
    Mended,
    harmless_holes,
    known_hole,
    mended_by_debian,
    parse_version,
)

HOLES = [
    pytest.param(name, hole, id=f"{name} {hole.cve or 'no number'}")
    for name, holes in MENDED.items()
    for hole in holes
]


def number(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


@pytest.mark.parametrize(("name", "hole"), HOLES)
def test_each_hole_is_in_all_versions_between_its_ends(name: str, hole: Mended) -> None:
    """Just below each release that mends it, in series nobody mended, not above."""
    assert list(hole.releases) == sorted(hole.releases)
    for release in hole.releases:
        assert hole.in_version(release)
        assert hole.in_version((*release[:2], release[2] + 1))
        below = (
            (*release[:2], release[2] - 1)
            if release[2]
            else (release[0], release[1] - 1)
        )
        assert hole.in_version(below) is (below < hole.since)
    first, last = hole.releases[0], hole.releases[-1]
    assert hole.in_version((last[0], last[1] + 1, 0))
    assert hole.in_version((last[0] + 1, 0))
    if first[1]:
        older = (first[0], first[1] - 1, 99)
        assert hole.in_version(older) is (older < hole.since)
    assert hole.in_version(hole.since) is False


@pytest.mark.parametrize(("name", "hole"), HOLES)
def test_each_hole_says_what_it_means_and_where_it_is_mended(
    name: str, hole: Mended
) -> None:
    bad = number((*hole.releases[-1][:2], hole.releases[-1][2] - 1))
    if hole.releases[-1][2] == 0:
        bad = number((hole.releases[-1][0], hole.releases[-1][1] - 1, 9))
    check = program_checks.library(name, bad)
    assert hole.hole in check.detail
    assert check.detail.startswith(bad)
    assert not hole.cve or hole.cve in hole.hole
    if hole.harmless:
        assert hole.harmless in check.detail
    else:
        assert not check.ok
        assert number(hole.releases[-1]) in check.fix


@pytest.mark.parametrize(
    ("version", "ok", "said"),
    [
        ("0.4.0", False, ["CVE-2020-5291"]),
        ("0.8.0", True, ["CVE-2026-87766", "nothing is mounted below"]),
        ("0.10.0", True, ["CVE-2026-87766"]),
        ("0.11.0", True, ["CVE-2026-41163", "CVE-2026-87766"]),
        ("0.11.2", True, ["CVE-2026-87766"]),
        ("0.12.0", True, []),
        ("0.13.1", True, []),
    ],
)
def test_bubblewrap(version: str, ok: bool, said: list[str]) -> None:
    check = program_checks.library("bwrap", version)
    assert check.ok is ok
    assert re.findall(r"CVE-[0-9-]+", check.detail) == [
        word for word in said if word.startswith("CVE")
    ]
    assert all(word in check.detail for word in said)
    assert said or check.detail == version


@pytest.mark.parametrize(
    ("name", "version", "cve"),
    [
        ("nix", "2.34.8", "CVE-2026-110449"),
        ("nix", "2.33.9", "CVE-2026-110449"),
        ("nix", "2.31.6", None),
        ("git", "2.50.0", "CVE-2025-48384"),
        ("aiohttp", "3.14.3", "PYSEC-2026-4371"),
        ("sqlite", "3.51.2", ""),
        ("python", "3.11.0", None),
        ("unheard-of", "1", None),
        ("git", "no number", "CVE-2025-48384"),
    ],
)
def test_which_hole_is_named(name: str, version: str, cve: str | None) -> None:
    hole = known_hole(name, version)
    assert (hole.cve if hole else None) == cve


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.39.5", (2, 39, 5)),
        ("2.36.0pre20261101_1a2b", (2, 36, 0)),
        ("3.14", (3, 14)),
        ("", ()),
        ("v1", ()),
    ],
)
def test_a_version_ends_where_its_numbers_end(
    text: str, version: tuple[int, ...]
) -> None:
    assert parse_version(text) == version


def test_debian_calls_some_programs_otherwise(tmp_path: Path) -> None:
    for name, package in PACKAGES.items():
        assert not mended_by_debian(name, tmp_path)
        changelog = tmp_path / package / "changelog.Debian.gz"
        changelog.parent.mkdir()
        named = [hole.cve for hole in MENDED[name] if not hole.harmless]
        changelog.write_bytes(gzip.compress("\n".join(named[1:]).encode()))
        assert not mended_by_debian(name, tmp_path)
        changelog.write_bytes(gzip.compress("\n".join(named).encode()))
        assert mended_by_debian(name, tmp_path)
    # Without a number there is nothing to look for.
    (tmp_path / "sqlite").mkdir()
    empty = tmp_path / "sqlite/changelog.Debian.gz"
    empty.write_bytes(gzip.compress(b"everything is mended"))
    assert not mended_by_debian("sqlite", tmp_path)
    assert harmless_holes("sqlite", "3.40.1") == []
