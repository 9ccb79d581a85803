"""What is installed is whole: migrations, pages, programs, declared libraries."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import aiohttp
import pytest

from tests.end_to_end.server import World
from tests.fakes import tree
from tests.fakes.github import FakeGitHub
from tests.fakes.repository import Origin

CONSOLE_SCRIPTS = {
    "build-server",
    "build-client",
    "build-trigger",
    "bt",
    "build-status",
    "bs",
    "build-logs",
    "bl",
}
PUBLIC_PARTS = {"multidict": "aiohttp", "yarl": "aiohttp", "pydantic_core": "pydantic"}
LOOK_INSIDE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import ci
from importlib.metadata import distribution
from ci.adapters.nix_eval.harness import HARNESSES, harness_directory
from ci.history.schema import migrations, migrations_directory
entry_points = distribution("build-server").entry_points
print(json.dumps({
    "package": ci.__file__,
    "migrations": [str(path) for path in migrations(migrations_directory()).values()],
    "harness": str(harness_directory()),
    "harness_inputs": sorted(HARNESSES["home-manager"].locked),
    "programs": {entry.name: callable(entry.load()) for entry in entry_points},
}))
"""

RUN = """
import sys
site = sys.argv.pop(1)
sys.path.insert(0, site)
import ci
assert ci.__file__.startswith(site), ci.__file__
from ci.cli import main
main()
"""
MANUAL = Path("docs/build-client.1")
STYLESHEET = re.compile(r'<link rel="stylesheet" href="([^"]+)"')


def _run(*argv: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *argv], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the wheel of this checkout, and nothing else, was put."""
    work = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
    offline = ("--no-deps", "--no-build-isolation", "--no-index")
    _run(*pip, "wheel", *offline, "-w", work, tree.CHECKOUT, cwd=work)
    (wheel,) = work.glob("*.whl")
    site = work / "site"
    _run(*pip, "install", "--no-deps", "--no-index", "-t", site, wheel, cwd=work)
    return site


def test_installed_package_stands_without_the_checkout(installed: Path) -> None:
    found = json.loads(_run("-I", "-c", LOOK_INSIDE, installed, cwd=installed.parent))
    assert Path(found["package"]).is_relative_to(installed)
    assert {Path(path).parent for path in found["migrations"]} == {
        installed / "ci/_migrations"
    }
    assert [Path(path).name for path in found["migrations"]] == sorted(
        path.name for path in (tree.CHECKOUT / "migrations").glob("*.sql")
    )
    assert Path(found["harness"]) == installed / "ci/_harness"
    assert found["harness_inputs"] == ["home-manager", "nixpkgs"]
    assert found["programs"] == dict.fromkeys(CONSOLE_SCRIPTS, True)


def test_installed_package_has_every_file_of_ci(installed: Path) -> None:
    ours = {path for path in tree.files() if path.parts[0] == "ci"}
    assert (
        ours - {path.relative_to(installed) for path in (installed / "ci").rglob("*")}
        == set()
    )


def test_wheel_has_templates_static_files_and_the_manual(installed: Path) -> None:
    (wheel,) = installed.parent.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (manual,) = [name for name in names if name.endswith("/man1/build-client.1")]
        assert archive.read(manual) == (tree.CHECKOUT / MANUAL).read_bytes()
    shown = Path("ci/serve")
    for folder, kinds in (
        ("templates", {".html"}),
        ("static", {".css", ".js", ".svg"}),
    ):
        ours = [p for p in tree.files() if p.is_relative_to(shown / folder)]
        assert {path.suffix for path in ours} >= kinds
        assert {str(path) for path in ours} <= names
    # Where `man` finds it beside the programs.
    installed_manual = installed / "share/man/man1/build-client.1"
    assert installed_manual.read_bytes() == (tree.CHECKOUT / MANUAL).read_bytes()


async def test_server_from_the_wheel_shows_its_pages(
    installed: Path, tmp_path: Path
) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    html = {"Accept": "text/html"}
    async with FakeGitHub() as github:
        world = World(tmp_path, Origin(tmp_path / "origin"), github, environ, "nix")
        world.program = ("-I", "-c", RUN, str(installed))
        world.repository = {"builder": "command", "command": ["./ci"]}
        async with (
            world.server() as server,
            aiohttp.ClientSession(server.private, headers=html) as browser,
        ):
            async with browser.get("/") as answer:
                assert (answer.status, answer.content_type) == (200, "text/html")
                found = STYLESHEET.search(await answer.text())
            assert found is not None
            async with browser.get(found[1]) as answer:
                assert (answer.status, answer.content_type) == (200, "text/css")
                assert await answer.read() == await asyncio.to_thread(_style)


def _style() -> bytes:
    parts = sorted((tree.CHECKOUT / "ci/serve/static/css").glob("*.css"))
    return b"\n".join(part.read_bytes() for part in parts)


def _declared() -> set[str]:
    project = tomllib.loads((tree.CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    optional = (one for name in extras if name != "test" for one in extras[name])
    return {
        _normal(re.split(r"[<>=\[ ]", requirement)[0])
        for requirement in (*project["dependencies"], *optional)
    }


def _imported() -> dict[str, set[str]]:
    """Libraries that `ci` imports -> the distributions that stand for each."""
    installed = packages_distributions()
    libraries = {
        name.split(".")[0]
        for _, body in tree.python("ci")
        for name in tree.imports(body)
    }
    return {
        name: {_normal(owner) for owner in installed.get(name, [name])}
        | {PUBLIC_PARTS.get(name, name)}
        for name in libraries - sys.stdlib_module_names - {"ci"}
    }


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_libraries_are_declared_when_imported_and_only_then() -> None:
    declared, imported = _declared(), _imported()
    undeclared = {name for name, owners in imported.items() if not owners & declared}
    assert undeclared == set()
    assert declared - set().union(*imported.values()) == set()
