"""What the tests of the home modules share: a few machines, and their activation."""

from __future__ import annotations

import subprocess
from pathlib import Path

HOME = Path("nix/modules/home")
BOOTSTRAP = HOME / "bootstrap.nix"
CLIENT = HOME / "build-client.nix"
SERVICES = HOME / "services.nix"
TERMINAL = HOME / "terminal.nix"
KEY = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
DEVICE = "7CFNTQM-IMTJBHJ-3UWRDIU-ZGQJFR6-VCXZ3NB-XUH3KZO-N52ITXR-LAIYUAU"
OTHER_DEVICE = "ABCDEFG-HIJKLMN-OPQRSTU-VWXYZ23-4567ABC-DEFGHIJ-KLMNOPQ-RSTUVWX"
THIRD_DEVICE = OTHER_DEVICE.replace("2", "3")
# The assertions are asked and the packages are made, as a switch does it.
WHOLE = {
    "failed": "failed",
    "warnings": "warnings",
    "name": "config.home.activationPackage.name",
}
SETTINGS = "config.services.syncthing.settings"


def activation(name: str) -> str:
    """The question for one step of the activation; see `activated`."""
    return f"config.home.activation.{name}.data"


def activated(step: str, **variables: str) -> str:
    """What bash prints for a step, with home-manager's own functions as far as used."""
    script = f'set -eu -o pipefail\nnoteEcho() {{ echo "$*"; }}\n{step}'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
