"""nix/harness with stand-ins for nixpkgs and home-manager, which are fetched from here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fakes.flakes import InputServer, nar_hash, sample
from tests.fakes.tree import CHECKOUT

HARNESS = CHECKOUT / "nix/harness"
INPUTS = ("home-manager", "nixpkgs")
# What homes say of the nixpkgs that they were made with.
OURS = "nixpkgs of the harness"


def locked_tarball(inputs: InputServer, name: str, files: dict[str, str]) -> Any:
    """A node of a flake.lock: these files, offered as a tarball."""
    original = {"type": "tarball", "url": inputs.serve(f"{name}.tar.gz", files)}
    return {"locked": {**original, "narHash": nar_hash(files)}, "original": original}


def write_harness(directory: Path, inputs: InputServer) -> None:
    """Our flake.nix and flake.lock, but for what the two inputs are."""
    stand_ins = {
        "nixpkgs": sample("stand-in-nixpkgs", WORD=OURS),
        "home-manager": sample("stand-in-home-manager"),
    }
    text = (HARNESS / "flake.nix").read_text()
    lock = json.loads((HARNESS / "flake.lock").read_text())
    for name, files in stand_ins.items():
        node = locked_tarball(inputs, name, files)
        text = text.replace(_address(lock["nodes"][name]), node["original"]["url"])
        lock["nodes"][name] |= node
    directory.mkdir(parents=True)
    (directory / "flake.nix").write_text(text)
    (directory / "flake.lock").write_text(json.dumps(lock))


def _address(node: dict[str, Any]) -> str:
    original = node["original"]
    parts = [original["owner"], original["repo"], original.get("ref")]
    return f"{original['type']}:{'/'.join(filter(None, parts))}"
