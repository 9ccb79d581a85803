"""README, "Set up your machines": its commands are run, its configurations evaluated."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ci import config
from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateNixos

SERVER = Path("nix/modules/nixos/build-server")
CLIENT = Path("nix/modules/nixos/build-client.nix")
ETC = "/etc/build-server-secrets"
SECTION = re.findall(
    r"^## Set up your machines\n(.*?)^## ",
    (CHECKOUT / "README.md").read_text(),
    re.M | re.S,
)[0]
MODULES = dict(re.findall(r"```nix\n *# ([^\n]+)\n(.*?)```", SECTION, re.S))
COMMANDS = re.findall(r"```sh\n(.*?)```", SECTION, re.S)


def test_the_steps_are_counted() -> None:
    assert re.findall(r"^(\d)\. ", SECTION, re.M) == ["1", "2", "3", "4", "5"]
    assert set(MODULES) == {"the server", "a client"}
    assert len(COMMANDS) == 3


def test_the_secrets_are_made_for_root_alone(tmp_path: Path) -> None:
    """Each line with what is pasted on its standard input."""
    place = tmp_path / "secrets"
    for line in COMMANDS[0].strip().splitlines():
        command = ["sh", "-e", "-c", line.replace(ETC, str(place))]
        subprocess.run(command, input=b"pasted\n", check=True)
    found = {each.name: each for each in place.iterdir()}
    assert set(found) == {"webhook", "github-token", "tailscale-auth-key"}
    assert place.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in found.values()} == {0o600}
    assert len(found["webhook"].read_text().strip()) >= 16
    assert found["github-token"].read_text() == "pasted\n"


def test_the_server(eval_nixos: EvaluateNixos) -> None:
    ask = {
        "failed": "failed",
        "warnings": "warnings",
        "file": "config.services.build-server.configFile.unchecked.value",
        "credentials": "config.systemd.services.build-server.serviceConfig.LoadCredential",
        "auth": "config.services.tailscale.authKeyFile",
        "public": "config.systemd.services.build-server-cache-key.environment.PUBLIC_FILE",
    }
    said = eval_nixos(SERVER, MODULES["the server"], ask=ask)
    assert said["failed"] == []
    # Step 4 is still to come.
    (warning,) = said["warnings"]
    assert f"`cat {said['public']}`" in warning
    assert f"cat {said['public']}\n" in COMMANDS[1]
    config.parse(said["file"])
    # What step 2 made, and nothing else.
    files = {each.partition(":")[2] for each in said["credentials"]} | {said["auth"]}
    assert files == set(re.findall(rf"{ETC}/[\w-]+", COMMANDS[0]))


def test_a_client(eval_nixos: EvaluateNixos) -> None:
    ask = {"failed": "failed", "warnings": "warnings", "nix": "config.nix.settings"}
    said = eval_nixos(CLIENT, MODULES["a client"], ask=ask)
    assert (said["failed"], said["warnings"]) == ([], [])
    assert said["nix"]["substituters"] == ["http://builder:5000"]
