"""nix/modules/home/services.nix, and what the NixOS module of the same name adds."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.nix.conftest import EvaluateHome, EvaluateNixos
from tests.nix.evaluation import Evaluation, EvaluationFailed
from tests.nix.homes import (
    DEVICE,
    OTHER_DEVICE,
    SERVICES,
    SETTINGS,
    WHOLE,
    activated,
    activation,
)

NIXOS = Path("nix/modules/nixos/bootstrap-services.nix")
DEVICES = f"""{{
  services.bootstrap-services.syncthing = {{
    enable = true;
    devices = {{
      desktop = "{DEVICE}";
      server = {{ id = "{OTHER_DEVICE}"; addresses = [ "tcp://server:22000" ]; }};
    }};
  }};
}}"""
ASK = WHOLE | {
    "folders": f"{SETTINGS}.folders",
    "devices": f"{SETTINGS}.devices",
    "options": f"{SETTINGS}.options",
    "units": "builtins.attrNames config.systemd.user.services",
    "unit": "config.systemd.user.services.syncthing.Service",
    "init": "(lib.head config.systemd.user.services.syncthing-init.Service.ExecStart).text",
}


def in_nixos(home: str) -> str:
    """A NixOS module with this home of alice in it."""
    return f"""{{
      users.users.alice.isNormalUser = true;
      home-manager.users.alice = {{
        imports = [ {SERVICES.absolute()} ({home}) ];
        home.stateVersion = "26.05";
      }};
    }}"""


def folders(*given: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    (one,) = given
    return {name: (each["path"], each["devices"]) for name, each in one.items()}


def test_the_folders_of_a_machine(each_evaluation: Evaluation) -> None:
    own = """{
      services.bootstrap-services.syncthing.folders = {
        photos = { path = "/mnt/external/photos"; devices = [ "desktop" ]; };
        documents.path = "/custom/docs";
      };
    }"""
    said = each_evaluation.home(SERVICES, DEVICES, own, ask=ASK)
    assert (said["failed"], said["warnings"]) == ([], [])
    # Of documents only the path is another; a laptop is unknown here.
    assert folders(said["folders"]) == {
        "documents": ("/custom/docs", ["desktop"]),
        "dotfiles": ("~/dotfiles", ["desktop", "server"]),
        "photos": ("/mnt/external/photos", ["desktop"]),
    }
    ids = {name: one["id"] for name, one in said["devices"].items()}
    assert ids == {"desktop": DEVICE, "server": OTHER_DEVICE}
    assert said["devices"]["server"]["addresses"] == ["tcp://server:22000"]
    assert said["options"]["urAccepted"] == -1
    assert {"syncthing", "syncthing-init"} <= set(said["units"])
    # What home-manager tells Syncthing at its start.
    for sent in ("/rest/config/folders", "/rest/config/devices"):
        assert sent in said["init"]


def test_other_keys_of_a_default_stay_and_can_be_added(
    eval_home: EvaluateHome,
) -> None:
    own = """{
      services.bootstrap-services.syncthing = {
        defaultFolders.documents.versioning = {
          type = "simple";
          params.keep = "5";
        };
        folders.documents = {
          type = "sendonly";
          versioning.params.keep = "9";
        };
        everyFolder.rescanIntervalS = 60;
        folders.dotfiles.rescanIntervalS = 7;
      };
    }"""
    said = eval_home(SERVICES, DEVICES, own, ask=ASK["folders"])
    documents = said["documents"]
    assert documents["type"] == "sendonly"
    assert documents["versioning"] == {"type": "simple", "params": {"keep": "9"}}
    assert documents["devices"] == ["desktop"]
    assert documents["rescanIntervalS"] == 60
    assert said["dotfiles"]["rescanIntervalS"] == 7


def test_each_default_is_overridden_in_one_line(eval_home: EvaluateHome) -> None:
    own = """{
      services.bootstrap-services.syncthing.defaultFolders.documents.path = "~/Docs";
      services.bootstrap-services.syncthing.folders.dotfiles.enable = false;
      services.syncthing.settings.options.urAccepted = 3;
    }"""
    said = eval_home(SERVICES, DEVICES, own, ask=ASK)
    assert folders(said["folders"]) == {"documents": ("~/Docs", ["desktop"])}
    assert said["options"]["urAccepted"] == 3
    devices = """{
      services.bootstrap-services.syncthing.defaultFolders.dotfiles.devices = [ "server" ];
    }"""
    said = eval_home(SERVICES, DEVICES, devices, ask=ASK["folders"])
    assert said["dotfiles"]["devices"] == ["server"]


def test_a_machine_does_not_share_with_itself(eval_home: EvaluateHome) -> None:
    own = """{
      services.bootstrap-services.syncthing.thisDevice = "desktop";
      services.bootstrap-services.syncthing.folders.photos = {
        path = "~/Pictures";
        devices = [ "desktop" "server" ];
      };
    }"""
    said = eval_home(SERVICES, DEVICES, own, ask=ASK)
    # For documents nobody else is left.
    assert folders(said["folders"]) == {
        "dotfiles": ("~/dotfiles", ["server"]),
        "photos": ("~/Pictures", ["server"]),
    }
    assert set(said["devices"]) == {"server"}


def test_a_folder_of_ones_own_is_kept_for_oneself(eval_home: EvaluateHome) -> None:
    own = '{ services.bootstrap-services.syncthing.folders.diary.path = "~/diary"; }'
    said = eval_home(SERVICES, DEVICES, own, ask=ASK["folders"])
    assert folders(said)["diary"] == ("~/diary", [])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            'folders.photos = { path = "/p"; devices = [ "destkop" ]; };',
            'syncthing.folders.photos is shared with "destkop", which is none of the '
            'devices ("desktop", "server"). Write '
            'services.bootstrap-services.syncthing.devices.destkop = "…";',
        ),
        (
            'folders.documents.devices = [ "phone" "desktop" ];',
            'syncthing.folders.documents is shared with "phone", which is none of',
        ),
        (
            'folders."my photos".devices = [ "desktop" ];',
            'syncthing.folders."my photos" has no path. Write services.'
            'bootstrap-services.syncthing.folders."my photos".path = "~/my photos";',
        ),
        (
            f'devices.phone = "{DEVICE}";',
            'syncthing.devices: "desktop", "phone" have one ID.',
        ),
        (
            "folders.documents.enable = false; folders.dotfiles.enable = false;",
            "no folder is switched on",
        ),
    ],
)
def test_what_cannot_work_is_said(
    eval_home: EvaluateHome, more: str, words: str
) -> None:
    own = f"{{ services.bootstrap-services.syncthing = {{ {more} }}; }}"
    with pytest.raises(EvaluationFailed) as refused:
        eval_home(SERVICES, DEVICES, own, ask=WHOLE)
    assert words in str(refused.value)


def test_without_any_device_nothing_would_be_shared(eval_home: EvaluateHome) -> None:
    own = "{ services.bootstrap-services.syncthing.enable = true; }"
    with pytest.raises(EvaluationFailed) as refused:
        eval_home(SERVICES, own, ask=WHOLE)
    said = str(refused.value)
    assert 'its folders ("documents", "dotfiles") are for is among the devices' in said
    assert 'syncthing.devices.desktop = "…";' in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('folders.documents.path = "Documents";', 'begins with "/" or "~/"'),
        ("folders.documents.path = ./x;", 'begins with "/" or "~/"'),
        ('devices.phone = "LAPTOP-7X3Y";', "eight groups of seven letters and digits"),
        ('devices.phone = { name = "x"; };', "was accessed but has no value defined"),
        ('folders.documents.devices = "desktop";', "is not of type"),
        ("folders.documents = [ ];", "is not of type"),
        ('folders.documents.enable = "no";', "is not of type"),
    ],
)
def test_a_wrong_value_says_what_to_write(
    eval_home: EvaluateHome, more: str, words: str
) -> None:
    own = f"{{ services.bootstrap-services.syncthing = {{ {more} }}; }}"
    with pytest.raises(EvaluationFailed) as refused:
        eval_home(SERVICES, DEVICES, own, ask=ASK)
    assert words in str(refused.value)


TAILSCALE = """{
  services.bootstrap-services.tailscale = {
    enable = true;
    tray = true;
    authKeyFile = "/run/secrets/tail scale";
  };
}"""


def test_tailscale_as_far_as_a_home_can(
    eval_home: EvaluateHome, tmp_path: Path
) -> None:
    ask = WHOLE | {
        "step": activation("tailscale"),
        "tray": "config.systemd.user.services.tailscale-systray.Unit.Requires",
        "target": "config.systemd.user.targets.tray.Unit",
    }
    said = eval_home(SERVICES, TAILSCALE, ask=ask)
    assert (said["failed"], said["warnings"]) == ([], [])
    # What the tray waits for is there without a desktop module that brings it.
    assert said["tray"] == ["tray.target"]
    assert said["target"]["Requires"] == ["graphical-session-pre.target"]
    nothing = tmp_path / "tailscaled.sock"
    printed = activated(said["step"], TAILSCALED_SOCKET=str(nothing))
    assert "home-manager cannot start it" in printed
    assert "services.bootstrap-services.tailscale.enable = true;" in printed
    assert "sudo tailscale up --auth-key='file:/run/secrets/tail scale'" in printed
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(str(nothing))
        assert activated(said["step"], TAILSCALED_SOCKET=str(nothing)) == ""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('authKeyFile = "/nix/store/abc-key";', "outside the Nix store, in quotes"),
        ("authKeyFile = ./key;", "outside the Nix store, in quotes"),
        ('authKeyFile = "tskey-auth-x";', "absolute path of a file"),
        ('authKey = "tskey-auth-x";', "Put it into a file and write"),
    ],
)
def test_a_key_never_comes_into_the_store(
    eval_home: EvaluateHome, eval_nixos: EvaluateNixos, more: str, words: str
) -> None:
    own = f"{{ services.bootstrap-services.tailscale = {{ enable = true; {more} }}; }}"
    with pytest.raises(EvaluationFailed) as refused:
        eval_home(SERVICES, own, ask=WHOLE | {"step": activation("tailscale")})
    assert words in str(refused.value)
    with pytest.raises(EvaluationFailed) as refused:
        eval_nixos(
            NIXOS,
            own,
            ask={
                "key": "config.services.tailscale.authKeyFile",
                "name": "config.system.build.toplevel.name",
            },
        )
    assert words in str(refused.value)


def test_the_machine_has_the_daemon(each_evaluation: Evaluation) -> None:
    own = """{
      services.bootstrap-services = {
        tailscale = { enable = true; authKeyFile = "/run/secrets/tailscale"; };
        syncthing.openFirewall = true;
      };
    }"""
    said = each_evaluation.nixos(
        NIXOS,
        own,
        ask={
            "failed": "failed",
            "on": "config.services.tailscale.enable",
            "key": "config.services.tailscale.authKeyFile",
            "open": "config.networking.firewall.interfaces.tailscale0",
        },
    )
    assert said == {
        "failed": [],
        "on": True,
        "key": "/run/secrets/tailscale",
        "open": {"allowedTCPPorts": [22000], "allowedUDPPorts": [22000]},
    }
    alone = "{ services.bootstrap-services.syncthing.openFirewall = true; }"
    (message,) = each_evaluation.nixos(NIXOS, alone, ask="failed")
    assert "Write services.bootstrap-services.tailscale.enable = true;" in message
    off = {"on": "config.services.tailscale.enable"}
    assert each_evaluation.nixos(NIXOS, ask=off) == {"on": False}


def test_inside_nixos_the_machine_is_asked(eval_nixos: EvaluateNixos) -> None:
    """home-manager as a module of NixOS: what is missing there is an error here."""
    home = in_nixos(TAILSCALE)
    (message,) = eval_nixos('(homeManager + "/nixos")', home, ask="failed")
    assert "the machine has no Tailscale" in message
    assert "services.bootstrap-services.tailscale.enable = true;" in message
    on = "{ services.bootstrap-services.tailscale.enable = true; }"
    (message,) = eval_nixos('(homeManager + "/nixos")', NIXOS, on, home, ask="failed")
    assert 'services.tailscale.authKeyFile = "/run/secrets/tail scale";' in message
    key = '{ services.tailscale.authKeyFile = "/run/secrets/tail scale"; }'
    said = eval_nixos('(homeManager + "/nixos")', NIXOS, on, key, home, ask="failed")
    assert said == []


def test_syncthing_runs_once(eval_nixos: EvaluateNixos) -> None:
    home = in_nixos(DEVICES)
    assert eval_nixos('(homeManager + "/nixos")', home, ask="failed") == []
    twice = "{ services.syncthing.enable = true; }"
    (message,) = eval_nixos('(homeManager + "/nixos")', twice, home, ask="failed")
    assert "Syncthing would run twice" in message
