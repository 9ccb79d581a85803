"""Versions of the programs we stand on that have known holes, and where they are mended.

A hole is mended in one release of each series that is still cared for: 2.34.9 is good,
2.33.4 never was, 2.36.0 came later. Distributions mend older versions without changing
the number; what they say in their own changelog counts too.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]

_DEBIAN_CHANGELOGS = Path("/usr/share/doc")


@dataclass(frozen=True)
class Mended:
    """In which releases a hole was mended, the oldest series first.

    `hole` says what it means for this server; `harmless`, where it means nothing, why.
    """

    releases: tuple[Version, ...]
    hole: str
    since: Version = ()
    cve: str = ""
    harmless: str = ""

    def in_version(self, version: Version) -> bool:
        """Whether `version` is without the hole."""
        if version < self.since:
            return True
        same_series = [r for r in self.releases if r[:2] == version[:2]]
        if same_series:
            return version >= same_series[0]
        return version[:2] > self.releases[-1][:2]

    def releases_text(self) -> str:
        """`2.28.8, 2.30.6 or newer`."""
        texts = [".".join(map(str, release)) for release in self.releases]
        return f"{', '.join(texts)} or newer"


# Sources: the projects' own release notes and advisories, as of November 2026. Of several
# holes in one program the one that was mended last is named, which mends the others.
MENDED: Mapping[str, tuple[Mended, ...]] = {
    "aiohttp": (
        Mended(
            releases=((3, 14, 5),),
            hole="requests from outside can stop it or fill its memory (CVE-2026-54273, "
            "CVE-2026-54278), or be smuggled past a proxy (PYSEC-2026-4371)",
            cve="PYSEC-2026-4371",
        ),
    ),
    "git": (
        Mended(
            releases=(
                (2, 43, 7),
                (2, 44, 4),
                (2, 45, 4),
                (2, 46, 4),
                (2, 47, 3),
                (2, 48, 2),
                (2, 49, 1),
                (2, 50, 1),
            ),
            hole="a repository can run code when it is cloned with its submodules "
            "(CVE-2025-48384): this server never does, but Nix does for flakes that ask",
            cve="CVE-2025-48384",
        ),
    ),
    "nix": (
        Mended(
            releases=((2, 28, 8), (2, 30, 6), (2, 31, 6), (2, 34, 9), (2, 35, 3)),
            hole="evaluating a flake can overwrite memory (CVE-2026-110449), and who may "
            "ask the daemon for builds can become root (CVE-2026-39860, CVE-2026-44028)",
            cve="CVE-2026-110449",
        ),
    ),
    "sqlite": (
        Mended(
            releases=((3, 44, 6), (3, 50, 7), (3, 51, 3)),
            since=(3, 7, 0),
            hole="a write-ahead log that several connections reset can lose writes; this "
            "server lets only one connection do so",
        ),
    ),
    "bwrap": (
        Mended(
            releases=((0, 4, 1),),
            hole="installed setuid it gives root away (CVE-2020-5291)",
            cve="CVE-2020-5291",
        ),
        Mended(
            releases=((0, 11, 2),),
            since=(0, 11, 0),
            hole="installed setuid it mounts what it must not (CVE-2026-41163)",
            cve="CVE-2026-41163",
            harmless="no distribution installs that version setuid",
        ),
        Mended(
            releases=((0, 12, 0),),
            hole="it follows links when it makes mount points (CVE-2026-87766)",
            cve="CVE-2026-87766",
            harmless="nothing is mounted below what a commit can write",
        ),
    ),
}

# Debian's packages of programs that are called otherwise.
PACKAGES: Mapping[str, str] = {"bwrap": "bubblewrap", "nix": "nix-bin"}


def parse_version(text: str) -> Version:
    """(2, 39, 5) for `2.39.5`; what follows the numbers is left out."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def known_hole(name: str, version: str) -> Mended | None:
    """What is wrong with this version of `name`; None: nothing that matters here."""
    return next((hole for hole in _holes(name, version) if not hole.harmless), None)


def harmless_holes(name: str, version: str) -> list[Mended]:
    """What is wrong with it and cannot be used against this server."""
    return [hole for hole in _holes(name, version) if hole.harmless]


def _holes(name: str, version: str) -> Iterator[Mended]:
    number = parse_version(version)
    for mended in MENDED.get(name, ()):
        if not mended.in_version(number):
            yield mended


def mended_by_debian(name: str, documents: Path = _DEBIAN_CHANGELOGS) -> bool:
    """Whether Debian's changelog of the program `name` says that its holes are mended.

    Only true of the program that this package installed. Raises nothing: without a
    changelog that can be read there is no such word.
    """
    needed = [hole.cve for hole in MENDED[name] if not hole.harmless]
    changelog = documents / PACKAGES.get(name, name) / "changelog.Debian.gz"
    try:
        text = gzip.decompress(changelog.read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        return False
    return all(cve and cve in text for cve in needed)
