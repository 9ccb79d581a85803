"""The packages: what they are made of agrees with pyproject.toml, and the clients run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ci import __version__
from tests.fakes import tree
from tests.fakes.nix_stores import NixProgram, private_store
from tests.nix.evaluation import Checkouts, Evaluation
from tests.nix.flakes import copied, with_real_lib

SERVER = '(import (root + "/nix/packages") { inherit pkgs; }).build-server'
CLIENTS = {
    "build-trigger": "bt",
    "build-status": "bs",
    "build-logs": "bl",
}
# Names that nixpkgs gives to what a release of ours depends on, by what it says itself.
OLD = {"aiohttp": "3.14.3", "yarl": "1.23.0", "gidgethub": "5.4.0"}
WHEEL_PARTS = {
    *("LICENSE", "README.md", "ci", "docs", "migrations", "nix", "pyproject.toml"),
}
PRELUDE = "set -euo pipefail; runHook() { :; }\n"


def _project() -> Any:
    return tomllib.loads((tree.CHECKOUT / "pyproject.toml").read_text())


def _names(requirements: list[str]) -> list[str]:
    return sorted(canonicalize_name(Requirement(one).name) for one in requirements)


def _bounds() -> dict[str, Requirement]:
    requirements = map(Requirement, _project()["project"]["dependencies"])
    return {canonicalize_name(one.name): one for one in requirements}


def _with_versions(versions: dict[str, str]) -> str:
    """An overlay: nixpkgs with these versions of Python libraries."""
    changed = " ".join(
        f'{name} = old.{name} // {{ version = "{version}"; }};'
        for name, version in versions.items()
    )
    overrides = f"packageOverrides = _: old: {{ {changed} }};"
    return f"(_: prev: {{ python3 = prev.python3.override {{ {overrides} }}; }})"


def test_the_service_depends_on_what_pyproject_says(evaluation: Evaluation) -> None:
    said = evaluation.ask(f"""
      let server = {SERVER}; names = map (one: one.pname); in {{
        inherit (server) pname version;
        dependencies = names server.dependencies;
        build = names server.build-system;
        replaced = server.replacedLibraries;
        program = server.meta.mainProgram;
        machines = builtins.attrNames server.tests;
      }}""")
    project = _project()
    wanted = project["project"]
    messages = wanted["optional-dependencies"]["notify"]
    assert sorted(said["dependencies"]) == _names(wanted["dependencies"] + messages)
    assert said["build"] == _names(project["build-system"]["requires"])
    assert (said["pname"], said["version"]) == ("build-server", __version__)
    assert said["program"] in project["project"]["scripts"]
    assert said["machines"] == ["client-fetches", "server-builds"]
    # The stand-in has every library as it should be: then nothing is built anew.
    assert said["replaced"] == {}


@pytest.mark.parametrize(
    ("there", "replaced"),
    [
        ({"aiosqlite": "0.21.0"}, {"aiosqlite"}),
        ({"aiosqlite": "0.23.0"}, {"aiosqlite"}),
        ({"gidgethub": "5.4.0"}, {"gidgethub"}),
        ({"aiohttp": "3.14.4"}, {"aiohttp"}),
        ({"aiohttp": "3.14.4", "yarl": "1.23.0"}, {"aiohttp", "yarl"}),
        ({"yarl": "1.23.0"}, set()),
        ({"aiohttp": "3.15.0", "click": "9.0.0"}, set()),
    ],
)
def test_a_library_is_replaced_only_where_nixpkgs_has_another(
    evaluation: Evaluation, there: dict[str, str], replaced: set[str]
) -> None:
    said = evaluation.ask(
        f"""
        let server = {SERVER}; in {{
          inherit (server) replacedLibraries;
          versions = builtins.listToAttrs (
            map (one: {{ name = one.pname; value = one.version; }}) server.dependencies
          );
        }}""",
        overlays=_with_versions(there),
    )
    assert set(said["replacedLibraries"]) == replaced
    for name, requirement in _bounds().items():
        assert requirement.specifier.contains(said["versions"][name]), name


def test_what_replaces_is_a_whole_package(each_evaluation: Evaluation) -> None:
    said = each_evaluation.ask(
        f"""
        let
          packages = ({SERVER}).python.pkgs;
          told = name: {{
            inherit (packages.${{name}}) version;
            inherit (packages.${{name}}.src) hash pname;
            build = map (one: one.pname) packages.${{name}}.build-system;
            dependencies = map (one: "${{one.pname}} ${{one.version}}")
              packages.${{name}}.dependencies;
          }};
        in builtins.listToAttrs (map (name: {{ inherit name; value = told name; }})
          [ "aiohttp" "yarl" "gidgethub" "aiosqlite" ])""",
        overlays=_with_versions({**OLD, "aiosqlite": "0.21.0"}),
    )
    for name, package in said.items():
        assert package["pname"] == name
        assert re.fullmatch(r"sha256-[A-Za-z0-9+/]{43}=", package["hash"])
        assert package["build"]
    # One version of each in the whole set: aiohttp gets the yarl that took its place.
    assert f"yarl {said['yarl']['version']}" in said["aiohttp"]["dependencies"]


def test_the_overlay_has_all_of_them(evaluation: Evaluation) -> None:
    said = evaluation.ask(
        """{
          scripts = builtins.mapAttrs (_: one: one.meta.mainProgram) pkgs.bootstrap-scripts;
          server = pkgs.build-server.version;
          client = pkgs.build-client.version;
          far = (packagesFor "aarch64-linux").build-client.system;
          same = pkgs.bootstrap-scripts.system-update == pkgs.system-update;
        }""",
        overlays='(import (root + "/nix/overlay.nix"))',
    )
    programs = [*CLIENTS, "system-update", "bootstrap-new-machine"]
    assert said == {
        "scripts": {name: name for name in programs},
        "server": __version__,
        "client": __version__,
        "far": "aarch64-linux",
        "same": True,
    }


def test_the_shell_has_what_the_tests_need(evaluation: Evaluation) -> None:
    said = evaluation.ask("""
      let shell = import (root + "/nix/shell.nix") { inherit pkgs; };
          python = builtins.head shell.packages;
      in {
        libraries = map (one: one.pname) python.packages;
        programs = map (one: one.pname) (builtins.tail shell.packages);
      }""")
    project = _project()["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    assert sorted(said["libraries"]) == _names(wanted)
    assert {"git", "nix", "bubblewrap", "shellcheck", "nixfmt"} <= set(said["programs"])


def test_the_source_is_enough_for_the_wheel_and_no_more(
    newest_nix: NixProgram, tmp_path: Path
) -> None:
    checkouts = Checkouts.of(os.environ)
    with private_store(newest_nix) as store:
        flake = copied(store, tmp_path / "checkout")
        real = with_real_lib(flake, checkouts, tmp_path / "nixpkgs")
        source = Path(real.value("packages.x86_64-linux.build-server.src"))
        assert {path.name for path in source.iterdir()} <= WHEEL_PARTS
        _build_wheel(source, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        inside = {Path(name) for name in archive.namelist()}
    assert {path for path in tree.files() if path.parts[0] == "ci"} <= inside
    for migration in (tree.CHECKOUT / "migrations").glob("*.sql"):
        assert Path("ci/_migrations", migration.name) in inside
    data = f"build_server-{__version__}.data/data"
    assert Path(data, "share/man/man1/build-client.1") in inside


def _build_wheel(source: Path, work: Path) -> None:
    """As pip does, without network; the backend wants to write beside the sources."""
    writable = work / "source"
    shutil.copytree(source, writable)
    for directory in (
        writable,
        *(path for path in writable.rglob("*") if path.is_dir()),
    ):
        directory.chmod(0o755)
    pip = ["pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "wheel"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", *pip, *offline, "-w", work, writable], check=True
    )


@pytest.fixture(scope="module")
def client(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package's own commands install, with this Python in the place of Nix's."""
    said = evaluation.ask("""
      let client = (import (root + "/nix/packages") { inherit pkgs; }).build-client;
      in {
        inherit (client) installPhase installCheckPhase;
        python = pkgs.python3.interpreter;
      }""")
    work = tmp_path_factory.mktemp("client")
    source = work / "source/ci"
    shutil.copytree(tree.CHECKOUT / "ci/client", source / "client")
    shutil.copy(tree.CHECKOUT / "ci/__init__.py", source)
    (work / "source/docs").mkdir()
    shutil.copy(tree.CHECKOUT / "docs/build-client.1", work / "source/docs")
    script = PRELUDE + said["installPhase"] + said["installCheckPhase"]
    done = subprocess.run(
        ["bash", "-c", script.replace(said["python"], sys.executable)],
        cwd=work / "source",
        env={"PATH": os.environ["PATH"], "out": str(work / "out")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return work / "out"


@pytest.mark.parametrize("name", ["build-client", *CLIENTS, *CLIENTS.values()])
def test_every_client_runs_alone(client: Path, tmp_path: Path, name: str) -> None:
    """Neither the user's variables nor other installed packages have a say."""
    for module in ("sitecustomize", "argparse"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('loaded')")
    done = subprocess.run(
        [client / "bin" / name, "--version"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"build-client {__version__}\n")


def test_shells_and_man_find_what_they_need(client: Path) -> None:
    share = client / "share"
    for name in ["build-client", *CLIENTS, *CLIENTS.values()]:
        page = (share / "man/man1" / f"{name}.1").read_text()
        assert page == (tree.CHECKOUT / "docs/build-client.1").read_text()
        bash = (share / "bash-completion/completions" / name).read_text()
        assert f"{name} " in bash.partition("complete -o")[2]
        assert (share / "fish/vendor_completions.d" / f"{name}.fish").exists()
    zsh = (share / "zsh/site-functions/_build-client").read_text()
    assert zsh.startswith("#compdef build-client ")


def test_the_clients_are_compiled_by_content(client: Path) -> None:
    """In the store all times are the same: a compiled file must not depend on one."""
    library = client / "lib/build-client"
    sources = list(library.rglob("*.py"))
    compiled = list(library.rglob("*.pyc"))
    assert len(compiled) == len(sources) > 20
    # The flags of PEP 552: by hash, and the hash is not looked at.
    assert {path.read_bytes()[4:8] for path in compiled} == {b"\x01\x00\x00\x00"}


def test_a_client_of_one_verb_is_a_link(evaluation: Evaluation, tmp_path: Path) -> None:
    said = evaluation.ask("""
      let packages = import (root + "/nix/packages") { inherit pkgs; };
      in {
        target = "${packages.build-client}";
        commands = map (name: packages.${name}.cmd)
          [ "build-trigger" "build-status" "build-logs" ];
      }""")
    for (name, short), command in zip(CLIENTS.items(), said["commands"], strict=True):
        out = tmp_path / name
        subprocess.run(
            ["bash", "-c", PRELUDE + command],
            env={**os.environ, "out": str(out)},
            check=True,
        )
        links = {path.name: str(path.readlink()) for path in (out / "bin").iterdir()}
        assert links == {
            program: f"{said['target']}/bin/{program}" for program in (name, short)
        }
