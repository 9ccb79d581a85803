"""Which Nix programs there are to measure, and flakes for them."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.report import Report
from tests.conftest import NIX_VERSIONS
from tests.fakes.flakes import one_package
from tests.fakes.nix_stores import NixMissing, NixProgram, find_nix


def each_nix(report: Report) -> Iterator[NixProgram]:
    """The system's and today's; says which one is missing, and why."""
    for which in NIX_VERSIONS:
        try:
            yield find_nix(which)
        except NixMissing as error:
            report.note(f"Nix ({which}) is not measured: {error}")


def flake(word: str) -> dict[str, str]:
    """A flake of one package that tells its clock; another `word`, another derivation."""
    return one_package(f"date +%s%N; echo {word} > $out")
