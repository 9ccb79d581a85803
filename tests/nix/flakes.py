"""This checkout as a flake, with stand-ins for the inputs that are too big to have here.

The stand-ins (tests/samples/nix-eval/shape) give a derivation for every package and every
machine, so that a flake can show and check its outputs without nixpkgs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.fakes import tree
from tests.fakes.nix_stores import NixStore
from tests.nix.evaluation import SAMPLES, Checkouts

SHAPES = SAMPLES / "shape"
INPUTS = ("nixpkgs", "home-manager", "nixos-wsl")
PARTS = {
    *(".ci", "LICENSE", "README.md", "ci", "flake.lock", "flake.nix", "migrations"),
    *("docs", "nix", "pyproject.toml", "scripts"),
}
LIMIT = 300.0
# The outputs as a value, called as Nix calls them: no store, no lock, no fetching.
OUTPUTS = """\
let
  flake = path: given:
    let
      source = import (path + "/flake.nix");
      outputs = source.outputs (given // { inherit self; });
      self = outputs // { inputs = given; outPath = path; };
    in self;
  shape = name: flake (%s + "/${name}") { };
  inputs = { %s };
  self = flake %s inputs;
in
"""


def outputs_as_value(ask: str) -> str:
    """A Nix expression: `ask`, in which `self` is this flake with all its outputs."""
    shapes = " ".join(f'{name} = shape "{name}";' for name in INPUTS)
    return OUTPUTS % (SHAPES, shapes, tree.CHECKOUT) + ask


@dataclass(frozen=True)
class Flake:
    """A copy of what the flake is made of, in `path`, and the Nix that looks at it."""

    store: NixStore
    path: Path
    inputs: dict[str, Path] = field(
        default_factory=lambda: {name: SHAPES / name for name in INPUTS}
    )

    def run(
        self, *command: str, override: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `nix COMMAND… path:HERE`, with the stand-ins for the inputs."""
        argv = [self.store.program, *command, f"path:{self.path}"]
        return self._nix(argv, override)

    def start(self, template: str, directory: Path) -> None:
        """`nix flake init -t` in a new, empty directory."""
        directory.mkdir(parents=True)
        argv = [
            self.store.program,
            "flake",
            "init",
            "-t",
            f"path:{self.path}#{template}",
        ]
        done = subprocess.run(
            argv,
            cwd=directory,
            env=dict(self.store.env),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stderr

    def value(self, attribute: str) -> str:
        """What `nix eval --raw` says of an output."""
        argv = [self.store.program, "eval", "--raw", f"path:{self.path}#{attribute}"]
        done = self._nix(argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _every_system(self) -> tuple[str, ...]:
        """Nix 2.8 knows no other way."""
        return () if self.store.version < (2, 9) else ("--all-systems",)

    def _nix(
        self, argv: list[str], override: bool = True
    ) -> subprocess.CompletedProcess[str]:
        for name, path in self.inputs.items() if override else ():
            argv = [*argv, "--override-input", name, f"path:{path}"]
        return subprocess.run(
            argv,
            env=dict(self.store.env),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def check(self) -> subprocess.CompletedProcess[str]:
        """`nix flake check --no-build` of all systems, without building to evaluate."""
        argv = ("flake", "check", "--no-build", *self._every_system())
        done = self.run(*argv, "--option", "allow-import-from-derivation", "false")
        assert done.returncode == 0, done.stderr
        return done

    def show(self) -> Any:
        """What `nix flake show --json` says."""
        done = self.run("flake", "show", "--json", *self._every_system())
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def with_real_lib(flake: Flake, checkouts: Checkouts, work: Path) -> Flake:
    """The same with the stand-in packages of the evaluations, and nixpkgs' own `lib`."""
    shutil.copytree(SAMPLES, work)
    shutil.copytree(checkouts.nixpkgs_lib, work / "nixpkgs/lib")
    return replace(flake, inputs={**flake.inputs, "nixpkgs": work})


def with_real_inputs(flake: Flake, checkouts: Checkouts, work: Path) -> Flake:
    """The same with the modules of home-manager and NixOS-WSL besides.

    A checkout that has the content which flake.lock asks for is put into the store,
    where Nix finds it by the lock; another one overrides the lock.
    """
    assert checkouts.home_manager is not None
    real = with_real_lib(flake, checkouts, work)
    locked = json.loads((flake.path / "flake.lock").read_text())["nodes"]
    for name, path in (
        ("home-manager", checkouts.home_manager),
        ("nixos-wsl", checkouts.nixos_wsl),
    ):
        if path is None:
            continue
        content = flake.store.run("hash", "path", str(path)).strip()
        if content == locked[name]["locked"]["narHash"]:
            flake.store.run("store", "add-path", "--name", "source", str(path))
            del real.inputs[name]
        else:
            real.inputs[name] = path
    return real


def copied(store: NixStore, to: Path) -> Flake:
    """Copy those files of the checkout that the flake reads, and no others."""
    for path in tree.files():
        if path.parts[0] in PARTS:
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(tree.CHECKOUT / path, to / path)
    return Flake(store, to)
