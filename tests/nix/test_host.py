"""nix/modules/nixos/wsl-host.nix and the example host, with NixOS-WSL's own modules."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ci import config
from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateNixos
from tests.nix.evaluation import Evaluation

SERVER = Path("nix/modules/nixos/build-server")
CLIENT = Path("nix/modules/nixos/build-client.nix")
WSL_HOST = Path("nix/modules/nixos/wsl-host.nix")
HOST = Path("nix/hosts/build-server")
PAGE = CHECKOUT / "docs/nixos.md"
TEXT = (CHECKOUT / HOST / "default.nix").read_text()
STEPS = (CHECKOUT / HOST / "README.md").read_text().partition("\n## Inside, once\n")[2]
WSL = '{ wsl = { enable = true; defaultUser = "alice"; }; }'
ASK = {
    "failed": "failed",
    "warnings": "warnings",
    "toplevel": "config.system.build.toplevel.name",
}


def test_the_example_host_is_whole(each_evaluation: Evaluation) -> None:
    said = each_evaluation.nixos(
        SERVER,
        WSL_HOST,
        HOST,
        ask=ASK
        | {
            "file": "config.services.build-server.configFile.unchecked.value",
            "units": "builtins.attrNames config.systemd.services",
            "firewall": "config.systemd.services.firewall.enable",
            "open": "config.networking.firewall.interfaces",
            "trusted": "config.nix.settings.trusted-users",
            "conf": 'config.environment.etc."build-server/wslconfig.example".text',
        },
        wsl=True,
    )
    assert said["failed"] == []
    # It is made at the first start, and no example can know it.
    (warning,) = said["warnings"]
    assert "harmonia.publicKey is not set" in warning
    assert said["toplevel"] == "nixos-system-build-server"
    assert {
        "build-server",
        "build-server-cache-key",
        "build-server-funnel",
        "build-server-funnel-mend",
        "build-server-tailnet",
        "wsl-clock",
    } <= set(said["units"])
    # Why everything is on loopback here.
    assert said["firewall"] is False
    assert said["open"] == {}
    parsed = config.parse(said["file"])
    assert str(parsed.listen.private) == "127.0.0.1:8000"
    assert str(parsed.listen.public) == "127.0.0.1:8010"
    assert parsed.build.parallel == 1
    assert parsed.github.public_webhook_url
    windows = configparser.ConfigParser(inline_comment_prefixes="#")
    windows.read_string(said["conf"])
    assert windows["wsl2"]["vmIdleTimeout"] == "-1"
    assert windows["general"]["instanceIdleTimeout"] == "-1"
    assert said["trusted"] == ["root"]


def test_the_flake_around_it_evaluates(evaluation: Evaluation, tmp_path: Path) -> None:
    (flake,) = re.findall(r"```nix\n# flake\.nix\n(.*?)```", STEPS, re.S)
    (tmp_path / "flake.nix").write_text(flake)
    shutil.copy(CHECKOUT / HOST / "default.nix", tmp_path / "configuration.nix")
    ours = (("build-server", SERVER), ("wsl-host", WSL_HOST))
    modules = " ".join(f"{name} = {CHECKOUT / path};" for name, path in ours)
    said = evaluation.ask(f"""
      let
        given = {{
          nixpkgs.lib.nixosSystem = {{ modules }}:
            evalNixos {{ inherit modules; wsl = true; }};
          # The real one, or its stand-in, is around every machine here.
          nixos-wsl.nixosModules.default = {{ }};
          build-server.nixosModules = {{ {modules} }};
        }};
        flake = import {tmp_path}/flake.nix;
        asked = builtins.attrNames flake.inputs;
        machine = (flake.outputs given).nixosConfigurations.build-server;
      in {{ inherit asked; inherit (machine) failed;
        name = machine.config.system.build.toplevel.name; }}
    """)
    assert said == {
        "asked": ["build-server", "nixos-wsl", "nixpkgs"],
        "failed": [],
        "name": "nixos-system-build-server",
    }


def test_the_steps_work_for_who_is_not_root(tmp_path: Path) -> None:
    """No line needs to be in a directory that only root can enter."""
    programs, place = tmp_path / "bin", tmp_path / "secrets"
    programs.mkdir()
    (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
    (programs / "sudo").chmod(0o755)
    (made, switched) = re.findall(r"```sh\n(.*?)```", STEPS, re.S)[:2]
    for line in made.strip().splitlines():
        command = [
            "sh",
            "-e",
            "-c",
            line.replace("/etc/build-server-secrets", str(place)),
        ]
        env = {"PATH": f"{programs}:{os.environ['PATH']}"}
        subprocess.run(command, input=b"pasted\n", env=env, cwd="/", check=True)
    found = {each.name: each for each in place.iterdir()}
    assert {each.stat().st_mode & 0o777 for each in found.values()} == {0o600}
    assert len(found["webhook"].read_text().strip()) >= 16
    named = re.findall(r'"/etc/build-server-secrets/([\w-]+)";', TEXT)
    assert set(found) == set(named) - {"notify-urls"}
    assert "--flake path:/etc/nixos#build-server\n" in switched


def test_wsl_stays_apart_from_windows(eval_nixos: EvaluateNixos) -> None:
    said = eval_nixos(
        WSL_HOST,
        WSL,
        ask=ASK
        | {
            "path": "config.wsl.wslConf.interop.appendWindowsPath",
            "include": "config.wsl.interop.includePath",
            "resolv": "config.wsl.wslConf.network.generateResolvConf",
            "resolved": "config.services.resolved.enable",
            "dns": "config.networking.nameservers",
            "tailscale": "config.services.tailscale.enable",
            "timer": "config.systemd.timers.wsl-clock.timerConfig",
        },
        wsl=True,
    )
    assert said["failed"] == []
    assert (said["path"], said["include"], said["resolv"]) == (False, False, False)
    assert (said["resolved"], said["tailscale"]) == (True, True)
    assert said["dns"] == ["1.1.1.1", "9.9.9.9"]
    assert said["timer"]["OnUnitInactiveSec"] == "1min"
    (warning,) = said["warnings"]
    assert "Run `tailscale up` once in the distribution" in warning


def test_a_machine_overrides_in_one_line(eval_nixos: EvaluateNixos) -> None:
    own = """{
      wsl.wslConf.interop.appendWindowsPath = true;
      networking.nameservers = [ "192.0.2.1" ];
      services.wsl-host.clock = false;
      services.tailscale.authKeyFile = "/run/secrets/key";
    }"""
    said = eval_nixos(
        WSL_HOST,
        WSL,
        own,
        ask=ASK
        | {
            "path": "config.wsl.wslConf.interop.appendWindowsPath",
            "dns": "config.networking.nameservers",
            "timers": "config.systemd.timers",
        },
        wsl=True,
    )
    assert (said["failed"], said["warnings"]) == ([], [])
    assert (said["path"], said["dns"], said["timers"]) == (True, ["192.0.2.1"], {})


def test_two_writers_of_resolv_conf_are_refused(eval_nixos: EvaluateNixos) -> None:
    own = "{ wsl.wslConf.network.generateResolvConf = true; }"
    (message,) = eval_nixos(WSL_HOST, WSL, own, ask="failed", wsl=True)
    assert "Write wsl.wslConf.network.generateResolvConf = false;" in message


def test_elsewhere_it_says_what_is_missing(eval_nixos: EvaluateNixos) -> None:
    (message,) = eval_nixos(WSL_HOST, ask="failed")
    assert "Add nixos-wsl.nixosModules.default" in message
    # With NixOS-WSL's module there and not switched on: nothing, and no error.
    said = eval_nixos(
        WSL_HOST,
        ask={"failed": "failed", "timers": "config.systemd.timers"},
        wsl=True,
    )
    assert said == {"failed": [], "timers": {}}


def test_tailscale_on_the_windows_side_is_warned_of(eval_nixos: EvaluateNixos) -> None:
    own = "{ services.tailscale.enable = false; }"
    (warning,) = eval_nixos(WSL_HOST, WSL, own, ask="warnings", wsl=True)
    assert "let tailscaled run here" in warning


def _examples() -> list[str]:
    blocks: list[str] = re.findall(r"^```nix\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [block for block in blocks if not block.startswith("# flake.nix")]


@pytest.mark.parametrize(
    "example", _examples(), ids=lambda text: text.split("\n")[0][:40]
)
def test_the_examples_of_the_page_evaluate(
    eval_nixos: EvaluateNixos, example: str
) -> None:
    """Each is a whole module; with what the flake of the page imports around it."""
    said = eval_nixos(
        SERVER,
        CLIENT,
        *([WSL_HOST] if "wsl" in example else []),
        example,
        ask=ASK
        | {
            "server": "(if config.services.build-server.enable then "
            "config.services.build-server.configFile.unchecked.value else null)"
        },
        wsl="wsl" in example,
    )
    assert said["failed"] == []
    unknown_yet = "harmonia.publicKey is not set"
    assert [text for text in said["warnings"] if unknown_yet not in text] == []
    assert len(said["warnings"]) == int("# publicKey" in example)
    if said["server"] is not None:
        config.parse(said["server"])
