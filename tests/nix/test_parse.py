"""Every Nix file of this project can be read by every Nix, and says what it is for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.fakes import tree
from tests.fakes.nix_stores import NixProgram
from tests.nix.evaluation import environment

WITH_LIB = re.compile(r"^with\b", re.MULTILINE)


BROKEN = Path("tests/samples/nix")  # on purpose, some of them


def _files(*tops: str) -> list[Path]:
    return sorted(
        path
        for path in tree.files()
        if path.suffix == ".nix"
        and BROKEN not in path.parents
        and (not tops or path.parts[0] in tops)
    )


def test_every_file_parses(nix_version: NixProgram, tmp_path: Path) -> None:
    """Syntax, undefined variables, attributes given twice."""
    program = Path(nix_version.program).with_name("nix-instantiate")
    done = subprocess.run(
        [program, "--parse", *_files()],
        cwd=tree.CHECKOUT,
        env=environment(nix_version, tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_file_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path in _files("flake.nix", "nix", "tests")
        if not (tree.CHECKOUT / path).read_text().startswith("# ")
    ]
    assert silent == []


def test_no_file_takes_in_every_name_of_lib() -> None:
    """`with lib;` around a file hides where a name comes from, and its misspelling."""
    taking = [
        str(path)
        for path in _files("flake.nix", "nix")
        if WITH_LIB.search((tree.CHECKOUT / path).read_text())
    ]
    assert taking == []
