"""The harness of nix/harness: it makes things to build of a flake that has only modules.

`nix build --override-input tested FLAKE` would lock and fetch while it evaluates, with the
network; the server evaluates without. So targets.nix calls the `outputs` of the harness
itself, with the flake of the commit as its `tested`, which is what the option comes to. The
inputs that the flake does not bring are those of the harness's own lock: fetched by their
hashes with the others, and called as Nix would call them (harness.nix).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import ci
from ci.adapters.nix_eval.lock import LockedInput, parse_lock

# What a flake can tell of its own source.
SOURCE_INFO = ("lastModified", "narHash", "rev")
WRAPPER = files("ci.adapters.nix_eval").joinpath("harness.nix").read_text()


@dataclass(frozen=True)
class Harness:
    """A harness: the text of its flake.nix, and the inputs that it locks, by name."""

    flake: str
    locked: Mapping[str, LockedInput]

    @classmethod
    def read(cls, directory: Path) -> Harness:
        inputs = parse_lock((directory / "flake.lock").read_bytes())
        return cls(
            (directory / "flake.nix").read_text(), {item.name: item for item in inputs}
        )

    def inputs(self, own: Collection[str]) -> tuple[LockedInput, ...]:
        """What must be fetched for a flake that has inputs of the names `own`."""
        return tuple(
            LockedInput(f"{name} of the harness", item.locked, ours=True)
            for name, item in self.locked.items()
            if name not in own
        )

    def around(self, expression: str) -> str:
        """targets.nix as a function that takes `argument`, too, and asks the harness."""
        return (
            "arguments: "
            f'({expression}) (builtins.removeAttrs arguments [ "harness" ] // {{ '
            f"outputsOf = ({WRAPPER}) (arguments.harness // {{ harness = {self.flake}; }}); "
            "})"
        )

    def argument(self, system: str, store_dir: Path) -> Mapping[str, Any]:
        """What harness.nix wants, but for the harness itself."""
        locked = {name: _there(item, store_dir) for name, item in self.locked.items()}
        return {"locked": locked, "system": system}


def _there(item: LockedInput, store_dir: Path) -> Mapping[str, Any]:
    """A fetched input as builtins.fetchTree finds it without the network.

    Given its address, Nix 2.34 looks into the store only for what a lock file names, and
    otherwise into its cache, which is another one for each repository.
    """
    kept = {key: item.locked[key] for key in SOURCE_INFO if key in item.locked}
    return {"type": "path", "path": str(item.store_path(store_dir)), **kept}


def harness_directory() -> Path:
    """Where the harness is: inside the installed package, or the checkout."""
    package = Path(ci.__file__).parent
    installed = package / "_harness"
    return installed if installed.is_dir() else package.parent / "nix/harness"


HARNESSES: Mapping[str, Harness | None] = {
    "": None,
    "home-manager": Harness.read(harness_directory()),
}
