"""What the code can do is written down; the truth is read from the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ci.cli import main
from ci.client.words import VERBS
from ci.config.settings import documented_keys
from ci.serve.routes import ROUTES
from tests.fakes import tree

PAGES = {
    path: text
    for path, text in tree.texts()
    if path.suffix == ".md" and path.parts[0] not in ("tests", "nix", "migrations")
}
EVERYTHING = "\n".join(PAGES.values())


def _missing(wanted: Iterator[tuple[str, str]]) -> list[str]:
    """The names whose pattern occurs nowhere in the documentation."""
    return [
        name for name, pattern in wanted if not re.search(pattern, EVERYTHING, re.M)
    ]


def _keys() -> Iterator[tuple[str, str]]:
    for path, _ in documented_keys():
        key = re.escape(path.rpartition(".")[2])
        yield path, rf"`(?:[\w.]+\.)?{key}`|^\s*{key}\s*=|^\s*\[\[?{key}\]\]?"


def _verbs() -> Iterator[tuple[str, str]]:
    assert isinstance(main, click.Group)
    for verb in main.commands:
        yield f"build-server {verb}", rf"build-server {re.escape(verb)}\b"
    for verb in VERBS:
        yield f"build-client {verb}", rf"build-client {verb}\b"


def _routes() -> Iterator[tuple[str, str]]:
    for route in (each for each in ROUTES if not each.hidden):
        yield f"{route.method} {route.path}", _route_pattern(route.path)
    yield "POST /webhook", _route_pattern("/webhook")


def _route_pattern(path: str) -> str:
    """`/builds/{number}/log` is met by `/builds/412/log` and `/builds/<number>/log`."""
    fixed = re.split(r"\{[^}]*\}", path)
    return r"(?<![a-z>}*])" + r"[^/\s`]+".join(map(re.escape, fixed)) + r"(?![\w/-])"


def test_every_configuration_key_is_documented() -> None:
    missing = _missing(_keys())
    assert not missing, ", ".join(missing)


def test_every_verb_is_documented() -> None:
    missing = _missing(_verbs())
    assert not missing, ", ".join(missing)


def test_every_route_is_documented() -> None:
    missing = _missing(_routes())
    assert not missing, ", ".join(missing)


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        f"{page}: {link}"
        for page, text in PAGES.items()
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not _leads(page, link)
    ]
    assert not broken, "\n".join(broken)


def _leads(page: Path, link: str) -> bool:
    if "://" in link or link.startswith("mailto:"):
        return True
    name, _, anchor = link.partition("#")
    target = tree.CHECKOUT / page.parent / name if name else tree.CHECKOUT / page
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target.read_text(encoding="utf-8"))


def _anchors(text: str) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (tree.CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = set(re.findall(r"^\s*make ([a-z-]+)|`make ([a-z-]+)", EVERYTHING, re.M))
    assert {name for pair in named for name in pair if name} - targets == set()


@pytest.mark.parametrize(
    ("path", "text", "met"),
    [
        ("/builds/{number:[^/.]+}/log", "see `/builds/412/log?tail=9`", True),
        ("/builds/{number:[^/.]+}/log", "see `/builds/412`", False),
        ("/builds", "see `/builds/412`", False),
        ("/health", "curl http://build-server:8000/health", True),
    ],
)
def test_routes_are_recognised(path: str, text: str, met: bool) -> None:
    assert bool(re.search(_route_pattern(path), text)) is met
