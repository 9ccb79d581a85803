"""Versions of the programs we stand on that have known holes, and where they are mended.

A hole is mended in one release of each series that is still cared for: 2.34.9 is good,
2.33.4 never was, 2.36.0 came later. Distributions mend older versions without changing
the number; what they say in their own changelog counts too.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Version = tuple[int, ...]

_DEBIAN_CHANGELOGS = Path("/usr/share/doc")


@dataclass(frozen=True)
class Mended:
    """In which releases a hole was mended, the oldest series first."""

    releases: tuple[Version, ...]
    hole: str
    since: Version = ()
    cve: str = ""

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


# Sources: the projects' own release notes and advisories, as of November 2026.
MENDED: Mapping[str, Mended] = {
    "aiohttp": Mended(
        releases=((3, 14, 5),),
        hole="requests from outside can stop it",
    ),
    "git": Mended(
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
        hole="a repository can run code when it is cloned (CVE-2025-48384)",
        cve="CVE-2025-48384",
    ),
    "nix": Mended(
        releases=((2, 28, 8), (2, 30, 6), (2, 31, 6), (2, 34, 9), (2, 35, 3)),
        hole="evaluating a flake can overwrite memory (CVE-2026-110449)",
        cve="CVE-2026-110449",
    ),
    "sqlite": Mended(
        releases=((3, 44, 6), (3, 50, 7), (3, 51, 3)),
        since=(3, 7, 0),
        hole="a write-ahead log that several connections reset can lose writes; this "
        "server lets only one connection do so",
    ),
    "bwrap": Mended(
        releases=((0, 4, 1),),
        hole="installed setuid it gives root away (CVE-2020-5291)",
        cve="CVE-2020-5291",
    ),
}


def parse_version(text: str) -> Version:
    """(2, 39, 5) for `2.39.5`; what follows the numbers is left out."""
    match = re.match(r"[0-9]+(?:\.[0-9]+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def known_hole(name: str, version: str) -> str | None:
    """What is wrong with this version of `name`; None: nothing that is known here."""
    mended = MENDED.get(name)
    if mended is None or mended.in_version(parse_version(version)):
        return None
    return mended.hole


def mended_by_debian(name: str, documents: Path = _DEBIAN_CHANGELOGS) -> bool:
    """Whether Debian's changelog of package `name` names the hole as mended.

    Only true of the program that this package installed. Raises nothing: without a
    changelog that can be read there is no such word.
    """
    cve = MENDED[name].cve
    changelog = documents / name / "changelog.Debian.gz"
    try:
        text = gzip.decompress(changelog.read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        return False
    return bool(cve) and cve in text
