"""What is installed is whole: migrations, pages, programs, declared libraries."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.fakes import tree

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
