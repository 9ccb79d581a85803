"""nix/templates: each evaluates as it comes, and reads secrets.nix when it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.nix_stores import NixStore
from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateHome
from tests.nix.evaluation import NO_HOME_MANAGER, Checkouts, Evaluation
from tests.nix.flakes import Flake, copied, with_real_lib
from tests.nix.homes import DEVICE, KEY, OTHER_DEVICE

TEMPLATES = CHECKOUT / "nix/templates"
HOMES = ("laptop", "desktop", "server")
# The outputs of a template in a directory, given what the flakes that it names are.
OUTPUTS = """\
let
  buildServer = {
    outPath = root;
    nixosModules.default.imports = [
      (root + "/nix/modules/nixos/build-server")
      (root + "/nix/modules/nixos/build-client.nix")
      (root + "/nix/modules/nixos/bootstrap-services.nix")
    ];
  };
  given = {
    nixpkgs = {
      lib = lib // {
        nixosSystem = { modules }: evalNixos { inherit modules; };
      };
      legacyPackages = lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
    };
    home-manager = {
      lib.homeManagerConfiguration =
        { pkgs, modules }: import (homeManager + "/modules") {
          inherit pkgs lib;
          configuration.imports = modules;
        };
      nixosModules.home-manager = homeManager + "/nixos";
    };
    build-server = buildServer;
    nixos-wsl = { };
    self = { };
  };
  outputs = directory:
    let flake = import (directory + "/flake.nix"); in
    flake.outputs (builtins.intersectAttrs (flake.inputs // { self = null; }) given);
in
"""
SECRETS = f"""{{
  buildServer = {{
    address = "http://builder:8000";
    cacheUrl = "http://builder:5000";
    publicKey = "{KEY}";
  }};
  tailscale.authKeyFile = "/run/secrets/tailscale";
  syncthing.devices.desktop = "{DEVICE}";
  syncthing.devices.laptop = "{OTHER_DEVICE}";
}}
"""
WHAT = """\
{ config, ... }: {
  name = config.home.activationPackage.name;
  user = config.home.username;
  home = config.home.homeDirectory;
  machine = removeAttrs config.bootstrap.machine [ "secrets" ];
  server = config.programs.build-client.server;
  key = config.programs.build-client.publicKey;
  syncthing = config.services.syncthing.enable;
  warnings = config.warnings;
}
"""
MACHINE = """\
{ config, failed, warnings, ... }: {
  inherit failed warnings;
  name = config.system.build.toplevel.name;
  home = config.home-manager.users.alice.home.activationPackage.name;
  said = config.home-manager.users.alice.warnings;
  substituters = config.nix.settings.substituters;
  tailscale = config.services.tailscale.authKeyFile;
  syncthing = config.home-manager.users.alice.services.syncthing.enable;
  starts = config.boot.loader.systemd-boot.enable or false;
}
"""
# What NixOS's installer makes, with its own name, release and boot loader.
GENERATED = """\
{ lib, ... }: {
  fileSystems."/" = { device = "/dev/vda2"; fsType = "ext4"; };
  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";
}
"""
INSTALLED = """\
{ config, pkgs, ... }: {
  imports = [ ./hardware-configuration.nix ];
  boot.loader.grub.enable = true;
  boot.loader.grub.device = "/dev/vda";
  networking.hostName = "nixos";
  networking.networkmanager.enable = true;
  users.users.alice = { isNormalUser = true; extraGroups = [ "wheel" ]; };
  system.stateVersion = "25.05";
}
"""


def asked(evaluation: Evaluation, expression: str) -> Any:
    if evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    return evaluation.ask(OUTPUTS + expression)


def with_secrets(template: str, directory: Path) -> Path:
    started = directory / template
    shutil.copytree(TEMPLATES / template, started)
    (started / "secrets.nix").write_text(SECRETS)
    return started


def test_each_template_evaluates_as_it_comes(each_evaluation: Evaluation) -> None:
    homes = " ".join(
        f"{name} = lib.mapAttrs (_: {WHAT})"
        f" (outputs {TEMPLATES / name}).homeConfigurations;"
        for name in HOMES
    )
    said = asked(
        each_evaluation,
        f"""{{
          {homes}
          machine = lib.mapAttrs (_: {MACHINE})
            (outputs {TEMPLATES / "machine"}).nixosConfigurations;
          project = lib.mapAttrs (_: lib.mapAttrs (_: lib.mapAttrs (_: one: one.name))) {{
            inherit (outputs {TEMPLATES / "project"}) packages checks devShells;
          }};
        }}""",
    )
    for name in HOMES:
        assert set(said[name]) == {"alice"}
        home = said[name]["alice"]
        assert (home["user"], home["home"]) == ("alice", "/home/alice")
        assert home["server"] == "http://build-server:8000"
        assert (home["key"], home["syncthing"], home["warnings"]) == (None, False, [])
    assert said["laptop"]["alice"]["machine"]["lowPowerMode"]
    assert said["desktop"]["alice"]["machine"]["performanceMode"]
    assert said["server"]["alice"]["machine"]["headless"]
    assert said["machine"] == {
        "machine": {
            "name": "nixos-system-machine",
            "home": "home-manager-generation",
            "failed": [],
            "warnings": [],
            "said": [],
            "substituters": [],
            "tailscale": None,
            "syncthing": False,
            "starts": True,
        }
    }
    both = ["aarch64-linux", "x86_64-linux"]
    kinds = {kind: sorted(systems) for kind, systems in said["project"].items()}
    assert kinds == dict.fromkeys(("packages", "checks", "devShells"), both)


def test_secrets_are_read_when_they_are_there(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    started = {name: with_secrets(name, tmp_path) for name in (*HOMES, "machine")}
    homes = (
        " ".join(
            f"{name} = {WHAT.strip()} (outputs {started[name]}).homeConfigurations.alice;"
            for name in HOMES
        )
        .replace("= {", "= ({")
        .replace("} (outputs", "}) (outputs")
    )
    said = asked(
        evaluation,
        f"""{{
          {homes}
          machine = ({MACHINE})
            (outputs {started["machine"]}).nixosConfigurations.machine;
        }}""",
    )
    for name in HOMES:
        assert said[name]["server"] == "http://builder:8000"
        assert said[name]["key"] == KEY
        # A server's is off in any case.
        assert said[name]["syncthing"] is (name != "server")
        assert said[name]["warnings"] == []
    assert said["machine"] == {
        "name": "nixos-system-machine",
        "home": "home-manager-generation",
        "failed": [],
        "warnings": [],
        "said": [],
        "substituters": ["http://builder:5000"],
        "tailscale": "/run/secrets/tailscale",
        "syncthing": True,
        "starts": True,
    }


def test_a_machine_keeps_what_its_installer_made(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    """How it starts, its name and its release are not the template's to say."""
    started = with_secrets("machine", tmp_path)
    (started / "hardware-configuration.nix").write_text(GENERATED)
    asks = """{ config, failed, ... }: {
      inherit failed;
      name = config.networking.hostName;
      grub = config.boot.loader.grub.device;
      systemd = config.boot.loader.systemd-boot.enable or false;
      release = config.system.stateVersion;
      substituters = config.nix.settings.substituters;
      home = config.home-manager.users.alice.home.activationPackage.name;
    }"""
    generated = asked(
        evaluation, f"({MACHINE}) (outputs {started}).nixosConfigurations.machine"
    )
    assert (generated["failed"], generated["starts"]) == ([], True)
    (started / "configuration.nix").write_text(INSTALLED)
    said = asked(
        evaluation, f"({asks}) (outputs {started}).nixosConfigurations.machine"
    )
    (sentence,) = said["failed"]
    assert 'calls this machine "machine", and configuration.nix "nixos"' in sentence
    own = (started / "machine.nix").read_text().replace('"machine"', '"nixos"')
    (started / "machine.nix").write_text(own)
    said = asked(evaluation, f"({asks}) (outputs {started}).nixosConfigurations.nixos")
    assert said == {
        "failed": [],
        "name": "nixos",
        "grub": "/dev/vda",
        "systemd": False,
        "release": "25.05",
        "substituters": ["http://builder:5000"],
        "home": "home-manager-generation",
    }


def test_the_examples_of_secrets_are_secrets(evaluation: Evaluation) -> None:
    """With every line that is commented out there, filled in."""
    said = asked(
        evaluation,
        'map (name: import (root + "/nix/templates/${name}/secrets.example.nix"))'
        ' [ "laptop" "desktop" "server" "machine" ]',
    )
    for example in said:
        assert example["buildServer"] == {"address": "http://build-server:8000"}
        assert example["syncthing"]["devices"] == {}
    for name in (*HOMES, "machine"):
        ignored = (TEMPLATES / name / ".gitignore").read_text().splitlines()
        assert "secrets.nix" in ignored


def test_every_line_of_the_example_can_be_used(
    eval_home: EvaluateHome,
) -> None:
    text = (TEMPLATES / "laptop/secrets.example.nix").read_text()
    head, _, body = text.partition("{\n")
    assert head.startswith("# ")
    used = [line.strip().removeprefix("# ") for line in body.splitlines()]
    whole = "{\n" + "\n".join(
        line for line in used if not line.startswith(("curl ", "syncthing --"))
    )
    whole = whole.replace("build-server-1:…", KEY)
    whole = whole.replace("-".join(["XXXXXXX"] * 8), DEVICE)
    said = eval_home(
        Path("nix/profiles/laptop.nix"),
        f"{{ bootstrap.machine.secrets = {whole}; }}",
        ask={
            "devices": "config.services.syncthing.settings.devices.desktop.id",
            "key": "config.programs.build-client.publicKey",
            "cache": "config.programs.build-client.cacheUrl",
            "file": "config.services.bootstrap-services.tailscale.authKeyFile",
        },
    )
    assert said == {
        "devices": DEVICE,
        "key": KEY,
        "cache": "http://build-server:5000",
        "file": "/run/secrets/tailscale",
    }


@pytest.fixture
def flake(nix: NixStore, tmp_path: Path) -> Flake:
    checkouts = Checkouts.whole(os.environ)
    ours = copied(nix, tmp_path / "build-server")
    real = with_real_lib(ours, checkouts, tmp_path / "nixpkgs")
    inputs = {
        "nixpkgs": real.inputs["nixpkgs"],
        "home-manager": checkouts.home_manager or Path(),
        "build-server": ours.path,
    }
    return Flake(nix, ours.path, inputs)


def test_git_hides_secrets_and_path_does_not(flake: Flake, tmp_path: Path) -> None:
    """What the README of a template says of `path:`, with Nix itself."""
    started = tmp_path / "laptop"
    flake.start("laptop", started)
    (started / "secrets.nix").write_text(SECRETS)
    shutil.copy(started / "secrets.nix", tmp_path / "kept")
    for command in (["init", "-q"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=started, check=True, timeout=240)
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=started, capture_output=True, text=True, timeout=240
    )
    assert "secrets.example.nix" in tracked.stdout
    assert "secrets.nix" not in tracked.stdout.split()
    key = "homeConfigurations.alice.config.programs.build-client.publicKey"
    assert _value(flake, f"path:{started}", key) == f'"{KEY}"'
    assert _value(flake, f"git+file://{started}", key) == "null"


def _value(flake: Flake, url: str, attribute: str) -> str:
    argv = [flake.store.program, "eval", "--json", f"{url}#{attribute}"]
    for name, path in flake.inputs.items():
        argv += ["--override-input", name, f"path:{path}"]
    argv += ["--no-write-lock-file"]
    done = subprocess.run(
        argv, env=dict(flake.store.env), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
