"""The examples of docs/home-manager.md are evaluated; what it tells of values is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateHome, EvaluateNixos
from tests.nix.evaluation import NO_HOME_MANAGER, Evaluation
from tests.nix.homes import BOOTSTRAP, CLIENT, SERVICES, TERMINAL, WHOLE

PAGE = (CHECKOUT / "docs/home-manager.md").read_text()
EVERY = (BOOTSTRAP, SERVICES, TERMINAL, CLIENT)
LAPTOP = Path("nix/profiles/laptop.nix")
EXAMPLES = dict(re.findall(r"```nix\n# ([^\n]+)\n(.*?)```", PAGE, re.S))


def test_every_example_is_looked_at() -> None:
    assert set(EXAMPLES) == {
        "flake.nix",
        "home.nix",
        "the machine",
        "with a build of one's own",
        "a laptop that differs",
    }
    assert PAGE.count("```nix") == len(EXAMPLES) + 1  # and one line of a flake


def test_the_home(each_evaluation: Evaluation) -> None:
    ask = WHOLE | {
        "folders": "builtins.mapAttrs (_: one: one.path)"
        " config.services.syncthing.settings.folders",
        "client": "config.programs.build-client.server",
    }
    said = each_evaluation.home(*EVERY, EXAMPLES["home.nix"], ask=ask)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["folders"] == {
        "documents": "/custom/docs",
        "dotfiles": "~/dotfiles",
        "photos": "/mnt/external/photos",
    }
    assert said["client"] == "http://build-server:8000"


def test_the_flake(evaluation: Evaluation, tmp_path: Path) -> None:
    if evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    (tmp_path / "flake.nix").write_text(EXAMPLES["flake.nix"])
    (tmp_path / "home.nix").write_text(EXAMPLES["home.nix"])
    modules = " ".join(str(CHECKOUT / one) for one in EVERY)
    said = evaluation.ask(f"""
      ((import {tmp_path}/flake.nix).outputs {{
        nixpkgs.legacyPackages.x86_64-linux = pkgs;
        build-server.homeModules.default.imports = [ {modules} ];
        home-manager.lib.homeManagerConfiguration = {{ pkgs, modules }}:
          evalHome {{ inherit modules; }};
      }}).homeConfigurations.alice.config.home.activationPackage.name
    """)
    assert said == "home-manager-generation"


def test_the_others(eval_home: EvaluateHome, eval_nixos: EvaluateNixos) -> None:
    own = EXAMPLES["with a build of one's own"]
    packages = {"packages": "map (one: one.name) config.home.packages"}
    said = eval_home(TERMINAL, own, ask=WHOLE | packages)
    assert "neovim" in said["packages"]
    ask = WHOLE | {"style": "config.programs.atuin.settings.style"}
    said = eval_home(LAPTOP, EXAMPLES["a laptop that differs"], ask=ask)
    assert (said["warnings"], said["style"]) == ([], "full")
    said = eval_nixos(
        Path("nix/modules/nixos/bootstrap-services.nix"),
        EXAMPLES["the machine"],
        ask={"failed": "failed", "key": "config.services.tailscale.authKeyFile"},
    )
    assert said == {"failed": [], "key": "/etc/secrets/tailscale"}


@pytest.mark.parametrize("profile", ["laptop", "desktop", "server"])
def test_the_table_of_profiles(eval_home: EvaluateHome, profile: str) -> None:
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in PAGE.splitlines()
        if line.startswith(("| `syncthingFolders`", "| `services` | tailscale"))
    ]
    place = 1 + ["laptop", "desktop", "server"].index(profile)
    said = eval_home(
        Path(f"nix/profiles/{profile}.nix"),
        ask="{ inherit (config.bootstrap.machine) syncthingFolders services; }",
    )
    assert len(rows) == 2
    for name, *cells in rows:
        assert ", ".join(said[name.strip("`")]) == cells[place - 1]


def test_every_option_is_described(eval_home: EvaluateHome) -> None:
    said = eval_home(
        LAPTOP,
        ask="""
          map (one: { inherit (one) name; described = one ? description; }) (
            builtins.filter
              (one: lib.any (prefix: lib.hasPrefix prefix one.name) [
                "programs.bootstrap." "programs.build-client." "programs.terminal."
                "services.bootstrap-services." "bootstrap.machine."
              ])
              (lib.optionAttrSetToDocList {
                inherit (options) bootstrap;
                programs = { inherit (options.programs) bootstrap build-client terminal; };
                services = { inherit (options.services) bootstrap-services; };
              })
          )
        """,
    )
    assert len(said) > 40
    assert [one["name"] for one in said if not one["described"]] == []
