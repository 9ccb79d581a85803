"""flake.nix: its outputs are those promised, Nix accepts them, and the lock is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fakes import tree
from tests.fakes.nix_stores import NixProgram, NixStore
from tests.nix.evaluation import Checkouts, instantiate
from tests.nix.flakes import (
    INPUTS,
    Flake,
    copied,
    outputs_as_value,
    with_real_inputs,
)

SYSTEMS = ["aarch64-linux", "x86_64-linux"]
PACKAGES = [
    "bootstrap-new-machine",
    "build-client",
    "build-logs",
    "build-server",
    "build-status",
    "build-trigger",
    "default",
    "system-update",
]
HOME_MODULES = ["bootstrap", "build-client", "default", "services", "terminal"]
NIXOS_MODULES = ["build-client", "build-server", "default", "wsl-host"]
TEMPLATES = ["desktop", "laptop", "machine", "project", "server"]
TOP = {
    "checks": SYSTEMS,
    "devShells": SYSTEMS,
    "formatter": SYSTEMS,
    "homeManagerModules": HOME_MODULES,
    "homeModules": HOME_MODULES,
    "nixosConfigurations": ["build-server"],
    "nixosModules": NIXOS_MODULES,
    "overlays": ["default"],
    "packages": SYSTEMS,
    "templates": TEMPLATES,
}
NAMES = """
let
  outputs = removeAttrs self [ "inputs" "outPath" ];
  names = builtins.attrNames;
in {
  top = builtins.mapAttrs (_: names) outputs;
  packages = builtins.mapAttrs (_: names) self.packages;
  devShells = builtins.mapAttrs (_: names) self.devShells;
  modules = builtins.mapAttrs (_: names) (self.nixosModules // self.homeModules);
  overlay = builtins.functionArgs (self.overlays.default { });
  templates = builtins.mapAttrs (_: names) self.templates;
  paths = map (template: builtins.pathExists template.path) (
    builtins.attrValues self.templates
  );
  checks = names self.checks.x86_64-linux;
}
"""
# The alias stays for flakes that were written for it.
EXPECTED_WARNING = "warning: unknown flake output 'homeManagerModules'"
# What 2.8 knew not of yet.
OLD_WARNINGS = {
    "warning: unknown flake output 'homeModules'",
    "warning: unknown flake output 'homeManagerModules'",
}


@pytest.fixture
def flake(nix: NixStore, tmp_path: Path) -> Flake:
    return copied(nix, tmp_path / "checkout")


def test_the_outputs_have_the_promised_names(
    nix_version: NixProgram, tmp_path: Path
) -> None:
    said = json.loads(instantiate(nix_version, tmp_path, outputs_as_value(NAMES)))
    assert said["top"] == TOP
    assert said["packages"] == dict.fromkeys(SYSTEMS, PACKAGES)
    assert said["devShells"] == {system: ["default"] for system in SYSTEMS}
    assert said["templates"] == {name: ["description", "path"] for name in TEMPLATES}
    assert said["paths"] == [True] * len(TEMPLATES)
    # Nix before 2.9 takes a path for no module.
    assert set(map(tuple, said["modules"].values())) == {("imports",)}
    assert {"build-server", "build-client", "nixos-server", "scripts"} <= {
        *said["checks"]
    }
    for machine in ("home-laptop-", "home-desktop-", "home-server-", "template-"):
        assert any(name.startswith(machine) for name in said["checks"]), machine


def test_nix_accepts_every_output(flake: Flake) -> None:
    done = flake.check()
    modern = flake.store.version >= (2, 30)
    warnings = {
        line for line in done.stderr.splitlines() if line.startswith("warning: unknown")
    }
    assert warnings == ({EXPECTED_WARNING} if modern else OLD_WARNINGS)
    assert "error" not in done.stderr


def test_nix_evaluates_every_module_template_and_host(
    flake: Flake, tmp_path: Path
) -> None:
    """`nix flake check` with the real home-manager and NixOS-WSL of flake.lock."""
    real = with_real_inputs(flake, Checkouts.whole(os.environ), tmp_path / "nixpkgs")
    done = real.check()
    assert "trace:" not in done.stderr


def test_nix_shows_the_outputs(flake: Flake) -> None:
    shown = flake.show()
    assert set(shown) == set(TOP)
    for system in SYSTEMS:
        kinds = {name: one["type"] for name, one in shown["packages"][system].items()}
        assert kinds == dict.fromkeys(PACKAGES, "derivation")
    assert shown["templates"]["laptop"]["type"] == "template"


def test_a_template_starts_a_machine(flake: Flake, tmp_path: Path) -> None:
    """`nix flake init -t` copies all of it, and needs no network for that."""
    for template in TEMPLATES:
        started = tmp_path / template
        flake.start(template, started)
        assert _files(started) == _files(flake.path / "nix/templates" / template)
        assert "flake.nix" in {path.name for path in started.iterdir()}


def _files(directory: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_lock_is_whole(flake: Flake) -> None:
    """Nothing is looked up and nothing changes: there is no network in this test."""
    before = (flake.path / "flake.lock").read_text()
    done = flake.run("flake", "lock", "--no-update-lock-file", override=False)
    assert done.returncode == 0, done.stderr
    told = flake.run("flake", "metadata", "--json", override=False)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["locks"] == json.loads(before)
    assert (flake.path / "flake.lock").read_text() == before


def test_every_input_is_locked_to_content() -> None:
    lock = json.loads((tree.CHECKOUT / "flake.lock").read_text())
    nodes = lock["nodes"]
    assert nodes["root"]["inputs"] == {name: name for name in INPUTS}
    for name in INPUTS:
        locked = nodes[name]["locked"]
        assert len(locked["rev"]) == 40, name
        assert locked["narHash"].startswith("sha256-"), name
        assert nodes[name].get("inputs", {}).get("nixpkgs", ["nixpkgs"]) == ["nixpkgs"]
