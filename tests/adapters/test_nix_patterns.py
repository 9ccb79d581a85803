"""Reading target patterns and naming targets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from ci.adapters.nix_eval.patterns import Name, Request, parse, quote, shown
from ci.errors import CommitFault

SYSTEM = "x86_64-linux"
TOPLEVEL = ("config", "system", "build", "toplevel")


def path(request: Request) -> list[str]:
    return [name.text for name in request.path]


@pytest.mark.parametrize(
    ("pattern", "expected", "suffix"),
    [
        ("packages.*", ["packages", SYSTEM, "*"], ()),
        ("packages", ["packages", SYSTEM, "*"], ()),
        ("packages.aarch64-linux", ["packages", "aarch64-linux", "*"], ()),
        ("packages.aarch64-linux.*", ["packages", "aarch64-linux", "*"], ()),
        ("packages.*.web", ["packages", "*", "web"], ()),
        ("checks.web-test", ["checks", SYSTEM, "web-test"], ()),
        ("checks.on-linux", ["checks", "on-linux", "*"], ()),
        ('packages."py3.12"', ["packages", SYSTEM, "py3.12"], ()),
        ("legacyPackages.a.b", ["legacyPackages", SYSTEM, "a", "b"], ()),
        ("formatter", ["formatter", SYSTEM], ()),
        ("formatter.aarch64-linux", ["formatter", "aarch64-linux"], ()),
        ("hydraJobs.tests.*", ["hydraJobs", "tests", "*"], ()),
        (
            'homeConfigurations."a@b.c"',
            ["homeConfigurations", "a@b.c"],
            ("activationPackage",),
        ),
        (
            "homeConfigurations.a@b",
            ["homeConfigurations", "a@b"],
            ("activationPackage",),
        ),
        ("nixosConfigurations", ["nixosConfigurations", "*"], TOPLEVEL),
        (
            "nixosConfigurations.s.config.x",
            ["nixosConfigurations", "s", "config", "x"],
            (),
        ),
    ],
)
def test_patterns_are_completed(
    pattern: str, expected: list[str], suffix: tuple[str, ...]
) -> None:
    request = parse(pattern, SYSTEM)
    assert path(request) == expected
    assert request.suffix == suffix
    assert request.exact is ("*" not in expected)


@pytest.mark.parametrize(
    "pattern",
    ["", ".", "a.", ".a", "a..b", "*", "*.b", 'a."b', 'a."b"c', "a b", "a.${b}"],
)
def test_what_is_not_a_pattern_is_said_so(pattern: str) -> None:
    with pytest.raises(CommitFault, match="cannot be read: expected attribute names"):
        parse(pattern, SYSTEM)


@given(st.lists(st.text(min_size=1), min_size=1))
def test_a_quoted_name_is_read_back(names: list[str]) -> None:
    pattern = ".".join(["others", *map(quote, names)])
    assert path(parse(pattern, SYSTEM)) == ["others", *names]


@given(st.text("ab.+*-(", max_size=6), st.text("ab.+-(", max_size=6))
def test_a_star_stands_for_anything_and_nothing_else_does(
    pattern: str, name: str
) -> None:
    match = Name(pattern, wild=True).argument()["match"]
    parts = [re.escape(part) for part in pattern.split("*")]
    expected = re.fullmatch(".*".join(parts), name) is not None
    assert (re.fullmatch(match, name) is not None) is expected


def test_the_system_of_this_host_is_not_part_of_a_name() -> None:
    assert shown(["packages", SYSTEM, "py3.12"], SYSTEM) == 'packages."py3.12"'
    assert (
        shown(["packages", "aarch64-linux", "x"], SYSTEM) == "packages.aarch64-linux.x"
    )
    assert shown(["formatter", SYSTEM], SYSTEM) == "formatter"
    assert (
        shown(["homeConfigurations", 'a"\\b'], SYSTEM) == r'homeConfigurations."a\"\\b"'
    )
