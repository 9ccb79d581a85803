"""nix/profiles: what kinds of machine there are, and that each default gives way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateHome, EvaluateNixos
from tests.nix.evaluation import NO_HOME_MANAGER, Evaluation, EvaluationFailed
from tests.nix.homes import (
    DEVICE,
    KEY,
    OTHER_DEVICE,
    SETTINGS,
    THIRD_DEVICE,
    WHOLE,
    activated,
    activation,
)

GOLDEN = CHECKOUT / "tests/nix/golden/profiles.json"
PROFILES = Path("nix/profiles")
LAPTOP, DESKTOP, SERVER = (
    PROFILES / f"{name}.nix" for name in ("laptop", "desktop", "server")
)
KNOWN = f"""{{
  bootstrap.machine.secrets = {{
    buildServer = {{
      address = "http://builder:8000";
      cacheUrl = "http://builder:5001";
      publicKey = "{KEY}";
    }};
    atuin.syncServer = "http://builder:8888";
    tailscale.authKeyFile = "/run/secrets/tailscale";
    syncthing.devices = {{
      desktop = "{DEVICE}";
      laptop = "{OTHER_DEVICE}";
      server = "{THIRD_DEVICE}";
    }};
  }};
}}"""
ASK = WHOLE | {
    "machine": 'removeAttrs config.bootstrap.machine [ "secrets" ]',
    "folders": f"builtins.mapAttrs (_: one: one.devices) {SETTINGS}.folders",
    "paths": f"builtins.mapAttrs (_: one: one.path) {SETTINGS}.folders",
    "dotfiles": f"{SETTINGS}.folders.dotfiles or null",
    "options": f"lib.filterAttrs (_: one: one != null) {SETTINGS}.options",
    "service": "config.systemd.user.services.syncthing.Service or { }",
    "units": "builtins.attrNames config.systemd.user.services",
    "sync": "config.programs.atuin.settings.sync_frequency",
    "client": 'config.xdg.configFile."build-server/client.toml".source.value',
    "atuin": "config.programs.atuin.settings.sync_address",
    "steps": "builtins.attrNames config.home.activation",
    "programs": """{
      inherit (config.programs.neovim) waylandSupport;
      tmux = config.programs.tmux.enable;
      dconf = config.dconf.enable;
      fonts = config.fonts.fontconfig.enable;
    }""",
}


# What a profile makes: files, aliases, units and settings that are ours to choose.
WRITTEN = """\
config:
let
  inherit (config.services.syncthing) settings;
  # home-manager's own, for every folder.
  known = [
    "copyOwnershipFromParent" "enable" "id" "ignorePatterns" "label" "type" "versioning"
  ];
in {
  aliases = config.home.shellAliases;
  atuin = config.xdg.configFile."atuin/config.toml".source.value;
  client = config.xdg.configFile."build-server/client.toml".source.value;
  nixConf = config.xdg.configFile."build-server/nix.conf".text;
  units = builtins.attrNames config.systemd.user.services;
  syncthing = {
    devices = builtins.mapAttrs (_: one: one.id) settings.devices;
    options = lib.filterAttrs (_: one: one != null) settings.options;
    folders = builtins.mapAttrs (_: one: removeAttrs one known) settings.folders;
    service = lib.filterAttrs (name: _: name == "Nice" || name == "IOSchedulingClass")
      (config.systemd.user.services.syncthing.Service or { });
  };
}
"""


def test_what_profiles_make_is_the_golden_one(each_evaluation: Evaluation) -> None:
    """UPDATE_GOLDEN=1 writes it anew: then look at what git says has changed."""
    if each_evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    profiles = " ".join(
        f"{one.stem} = ({WRITTEN})"
        f" (evalHome {{ modules = [ {one.absolute()} ({KNOWN}) ]; }}).config;"
        for one in (LAPTOP, DESKTOP, SERVER)
    )
    said = each_evaluation.ask(f"{{ {profiles} }}")
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")
    assert said == json.loads(GOLDEN.read_text())


def test_a_laptop(each_evaluation: Evaluation) -> None:
    said = each_evaluation.home(LAPTOP, KNOWN, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["machine"] == {
        "lowPowerMode": True,
        "performanceMode": False,
        "headless": False,
        "services": ["tailscale", "syncthing"],
        "syncthingFolders": ["documents", "code", "dotfiles"],
    }
    assert said["folders"] == {
        "documents": ["desktop"],
        "code": ["desktop", "server"],
        "dotfiles": ["desktop", "server"],
    }
    # What lowPowerMode does.
    assert said["sync"] == "1h"
    assert said["options"] == {
        "maxFolderConcurrency": 1,
        "progressUpdateIntervalS": -1,
        "reconnectionIntervalS": 300,
        "setLowPriority": True,
        "urAccepted": -1,
    }
    assert said["dotfiles"]["rescanIntervalS"] == 86400
    assert said["dotfiles"]["hashers"] == 1
    assert said["service"]["Nice"] == 19
    assert said["service"]["IOSchedulingClass"] == "idle"
    assert "tailscale-systray" in said["units"]
    # What came from the secrets.
    assert said["client"] == {
        "server": "http://builder:8000",
        "cache": {"url": "http://builder:5001", "public_key": KEY},
    }
    assert said["atuin"] == "http://builder:8888"


def test_a_desktop(each_evaluation: Evaluation) -> None:
    said = each_evaluation.home(DESKTOP, KNOWN, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["machine"]["performanceMode"] is True
    assert said["paths"] == {
        "documents": "~/Documents",
        "photos": "~/Pictures",
        "music": "~/Music",
        "videos": "~/Videos",
    }
    assert said["folders"]["music"] == ["laptop", "server"]
    assert said["sync"] == "1m"
    assert said["options"]["setLowPriority"] is False
    assert said["options"]["maxFolderConcurrency"] == -1
    assert "Nice" not in said["service"]
    assert "tailscale-systray" in said["units"]


def test_a_server(each_evaluation: Evaluation) -> None:
    said = each_evaluation.home(SERVER, KNOWN, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["machine"]["headless"] is True
    # Syncthing is off, as nobody asked for it, and nothing is for a screen.
    assert said["units"] == []
    assert said["sync"] == "5m"
    assert said["programs"] == {
        "waylandSupport": False,
        "tmux": True,
        "dconf": False,
        "fonts": False,
    }
    on = '{ bootstrap.machine.services = [ "tailscale" "syncthing" ]; }'
    more = {"step": activation("linger")}
    said = each_evaluation.home(SERVER, KNOWN, on, ask=ASK | more)
    assert said["folders"] == {
        "backups": ["laptop", "desktop"],
        "dotfiles": ["laptop", "desktop"],
    }
    assert "sudo loginctl enable-linger alice" in activated(said["step"])


OURS = "services.bootstrap-services.syncthing"
FOLDERS = f"{SETTINGS}.folders"
SYNC = "config.programs.atuin.settings.sync_frequency"
FOURTH_DEVICE = DEVICE.replace("7", "4")
NICE = "systemd.user.services.syncthing.Service.Nice"
# A line that a machine writes, what is asked of it, and the answer.
OVERRIDES: list[tuple[Path, str, str, object]] = [
    (LAPTOP, "bootstrap.machine.lowPowerMode = false", SYNC, "5m"),
    (LAPTOP, 'programs.bootstrap.atuin.syncFrequency = "2m"', SYNC, "2m"),
    (LAPTOP, 'programs.atuin.settings.sync_frequency = "3m"', SYNC, "3m"),
    (LAPTOP, f"{OURS}.everyFolder.hashers = 2", f"{FOLDERS}.code.hashers", 2),
    (
        LAPTOP,
        "services.syncthing.settings.options.maxFolderConcurrency = 3",
        f"{SETTINGS}.options.maxFolderConcurrency",
        3,
    ),
    (LAPTOP, f"{NICE} = 5", f"config.{NICE}", 5),
    (
        LAPTOP,
        'bootstrap.machine.syncthingFolders = [ "dotfiles" ]',
        f"builtins.attrNames {FOLDERS}",
        ["dotfiles"],
    ),
    (LAPTOP, f'{OURS}.folders.photos.path = "/p"', f"{FOLDERS}.photos.path", "/p"),
    (
        LAPTOP,
        f'{OURS}.folders.documents.path = "/docs"',
        f"{FOLDERS}.documents.devices",
        ["desktop"],
    ),
    (
        LAPTOP,
        f'{OURS}.thisDevice = "travel"',
        f"{FOLDERS}.documents.devices",
        ["laptop", "desktop"],
    ),
    (
        LAPTOP,
        f'{OURS}.devices.desktop = "{FOURTH_DEVICE}"',
        f"{SETTINGS}.devices.desktop.id",
        FOURTH_DEVICE,
    ),
    (LAPTOP, f"{OURS}.enable = false", "config.services.syncthing.enable", False),
    (
        LAPTOP,
        'bootstrap.machine.services = [ "tailscale" ]',
        "config.services.syncthing.enable",
        False,
    ),
    (
        LAPTOP,
        "services.bootstrap-services.tailscale.tray = false",
        "config.services.tailscale-systray.enable",
        False,
    ),
    (LAPTOP, "bootstrap.machine.headless = true", "config.programs.tmux.enable", True),
    (
        LAPTOP,
        "programs.bootstrap.buildServer.enable = false",
        "config.programs.build-client.enable",
        False,
    ),
    (
        LAPTOP,
        'programs.bootstrap.buildServer.address = "other"',
        "config.programs.build-client.server",
        "http://other:8000",
    ),
    (LAPTOP, "programs.terminal.enable = false", "config.programs.zsh.enable", False),
    (DESKTOP, "bootstrap.machine.performanceMode = false", SYNC, "5m"),
    (
        DESKTOP,
        "services.syncthing.settings.options.setLowPriority = true",
        f"{SETTINGS}.options.setLowPriority",
        True,
    ),
    (SERVER, "bootstrap.machine.headless = false", "config.dconf.enable", True),
    (SERVER, "dconf.enable = true", "config.dconf.enable", True),
    (SERVER, "programs.tmux.enable = false", "config.programs.tmux.enable", False),
    (
        SERVER,
        "programs.neovim.waylandSupport = true",
        "config.programs.neovim.waylandSupport",
        True,
    ),
    (
        SERVER,
        "fonts.fontconfig.enable = true",
        "config.fonts.fontconfig.enable",
        True,
    ),
]


def test_a_machine_overrides_any_default_in_one_line(evaluation: Evaluation) -> None:
    if evaluation.checkouts.home_manager is None:
        pytest.skip(NO_HOME_MANAGER)
    asked = " ".join(
        f"""(
          let
            inherit (evalHome {{
              modules = [ {profile.absolute()} ({KNOWN}) {{ {line}; }} ];
            }}) config;
          in builtins.seq config.home.activationPackage.name ({question})
        )"""
        for profile, line, question, _ in OVERRIDES
    )
    said = evaluation.ask(f"[ {asked} ]")
    lines = [line for _, line, *_ in OVERRIDES]
    wanted = [answer for *_, answer in OVERRIDES]
    assert dict(zip(lines, said, strict=True)) == dict(zip(lines, wanted, strict=True))


def test_without_secrets_it_works_but_for_what_they_say(
    eval_home: EvaluateHome,
) -> None:
    for profile in (LAPTOP, DESKTOP):
        ask = ASK | {"step": activation("syncthingDevices")}
        said = eval_home(profile, ask=ask)
        assert (said["failed"], said["warnings"]) == ([], [])
        assert "syncthing" not in said["units"]
        assert said["client"] == {"server": "http://build-server:8000"}
        printed = activated(said["step"])
        assert "Syncthing is off: no other machine is known." in printed
        flake = "path:/home/alice/.config/home-manager"
        assert f"home-manager switch --flake {flake}" in printed
    assert "syncthingDevices" not in eval_home(LAPTOP, KNOWN, ask=ASK["steps"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "bootstrap.machine.performanceMode = true;",
            "are both on. Write false for one of them.",
        ),
        (
            'bootstrap.machine.syncthingFolders = [ "docs" ];',
            'Write services.bootstrap-services.syncthing.folders.docs.path = "~/docs";',
        ),
        ('bootstrap.machine.services = [ "sincthing" ];', "is not of type"),
        ("bootstrap.machine.secrets.tailscale.authKey = 1;", "does not exist"),
        (
            'bootstrap.machine.secrets.tailscale.authKeyFile = lib.mkForce "tskey-x";',
            "absolute path of a file outside the Nix store",
        ),
        (
            'bootstrap.machine.secrets.buildServer.publicKey = lib.mkForce "x";',
            "44 characters after the colon",
        ),
        (
            'bootstrap.machine.secrets.syncthing.devices.phone = "x";',
            "eight groups of seven letters and digits",
        ),
    ],
)
def test_what_cannot_work_is_said(
    eval_home: EvaluateHome, line: str, words: str
) -> None:
    ask = ASK | {"step": activation("tailscale")}
    with pytest.raises(EvaluationFailed) as refused:
        eval_home(LAPTOP, KNOWN, f"{{ lib, ... }}: {{ {line} }}", ask=ask)
    assert words in str(refused.value)


def test_a_server_inside_nixos_is_told_to_linger(eval_nixos: EvaluateNixos) -> None:
    machine = f"""{{
      users.users.alice.isNormalUser = true;
      services.tailscale = {{ enable = true; authKeyFile = "/run/secrets/tailscale"; }};
      home-manager.users.alice = {{
        imports = [ {SERVER.absolute()} ({KNOWN}) ];
        bootstrap.machine.services = [ "syncthing" ];
        programs.build-client.publicKey = null;
        home.stateVersion = "26.05";
      }};
    }}"""
    ask = {"failed": "failed", "warnings": "config.home-manager.users.alice.warnings"}
    said = eval_nixos('(homeManager + "/nixos")', machine, ask=ask)
    assert said["failed"] == []
    (warning,) = said["warnings"]
    assert "users.users.alice.linger = true;" in warning
    linger = "{ users.users.alice.linger = true; }"
    said = eval_nixos('(homeManager + "/nixos")', machine, linger, ask=ask)
    assert said["warnings"] == []
