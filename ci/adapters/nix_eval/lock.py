"""flake.lock: which inputs a commit needs, and which no server should fetch.

The format is that of the Nix manual ("flake.lock"). A lock can name any directory of the
machine that reads it; such an input is refused here, before Nix sees it, because Nix
copies the directory into the store, which everybody can read. Nothing here does I/O.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.errors import CommitFault
from ci.text import printable

STORE_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_HASH_BYTES = 20
STORE_NAME = re.compile(r"[0-9A-Za-z+._?=-]{1,211}")
ADVICE = "run `nix flake lock` and commit flake.lock"
NO_LOCK = f"flake.lock is not a lock file: {ADVICE}"
# What describes one input: bytes of JSON.
LONGEST_INPUT = 16 * 1024
LONGEST_SHOWN = 255


@dataclass(frozen=True)
class LockedInput:
    """One input: its name in the lock and what builtins.fetchTree wants to fetch it.

    `ours`: it is of this server's own lock, and nothing that a commit could mend.
    """

    name: str
    locked: Mapping[str, Any]
    ours: bool = False

    def store_path(self, store_dir: Path) -> Path | None:
        """Where Nix puts it; None when the lock has no hash to tell."""
        kind, _, digest = str(self.locked.get("narHash", "")).partition("-")
        if kind != "sha256":
            return None
        try:
            content = base64.b64decode(digest, validate=True).hex()
        except binascii.Error:
            return None
        name = str(self.locked.get("name", "source"))
        if not STORE_NAME.fullmatch(name):
            return None
        # The Nix manual, "Store Path Specification", for what is addressed by its NAR.
        identity = f"source:sha256:{content}:{store_dir}:{name}"
        return store_dir / f"{_store_hash(identity)}-{name}"


@dataclass(frozen=True)
class Lock:
    """A flake.lock as it stands: its nodes by name, and the name of the flake's own."""

    nodes: Mapping[str, Mapping[str, Any]]
    root: str

    @property
    def own(self) -> Mapping[str, Any]:
        """What the flake's own inputs are locked to; empty where it does not say."""
        return table(self.nodes.get(self.root), "inputs")


def read_lock(content: bytes | None) -> Lock:
    """The lock of a commit, with no node when there is none.

    Raises CommitFault: it is no lock file, or describes an input with more than plain
    values, which Nix takes for none either.
    """
    if content is None:
        return Lock({}, "")
    try:
        lock = json.loads(content, parse_constant=_no_number)
        nodes, root = dict(lock["nodes"]), lock.get("root", "root")
        plain = all(
            not isinstance(value, dict | list)
            for node in nodes.values()
            for value in table(node, "locked").values()
        )
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise CommitFault(NO_LOCK) from None
    if not plain or not isinstance(root, str):
        raise CommitFault(NO_LOCK)
    if not all(isinstance(node, dict) for node in nodes.values()):
        raise CommitFault(NO_LOCK)
    return Lock(nodes, root)


def table(node: object, name: str) -> Mapping[str, Any]:
    """A part of a node; empty where a commit has written something else."""
    part = node.get(name) if isinstance(node, dict) else None
    return part if isinstance(part, dict) else {}


def parse_lock(content: bytes | None) -> tuple[LockedInput, ...]:
    """The inputs of a flake.lock (None: there is none) that must be fetched.

    Inputs below the flake's own directory come with it and are left out. Raises
    CommitFault: not a lock file, or it locks a file or directory of this machine.
    """
    # By what is locked: two names for the same are one input.
    inputs: dict[str, LockedInput] = {}
    for name, node in read_lock(content).nodes.items():
        locked = node.get("locked")
        if not isinstance(locked, dict) or _inside(locked):
            continue
        place = _local(locked)
        if place is not None:
            raise CommitFault(
                f"flake.lock locks the input `{_shown(name)}` to `{_shown(place)}`, a place "
                "on the machine that wrote it: use a git or github input instead, "
                f"{ADVICE}"
            )
        wanted = {key: value for key, value in locked.items() if key != "dir"}
        described = json.dumps(wanted, sort_keys=True)
        if len(name) + len(described) > LONGEST_INPUT:
            raise CommitFault(
                f"flake.lock says too much about the input `{_shown(name)}`: {ADVICE}"
            )
        inputs.setdefault(described, LockedInput(name, wanted))
    return tuple(inputs.values())


def own_inputs(content: bytes | None) -> frozenset[str]:
    """The names of a flake's own inputs; raises CommitFault as read_lock does."""
    return frozenset(read_lock(content).own)


def _shown(text: str) -> str:
    return printable(text[:LONGEST_SHOWN])


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _inside(locked: Mapping[str, Any]) -> bool:
    path = locked.get("path")
    return locked.get("type") == "path" and not str(path).startswith("/")


def _local(locked: Mapping[str, Any]) -> str | None:
    """The file or directory of this machine that an input names, None for remote ones."""
    if "path" in locked and locked.get("type") == "path":
        return str(locked["path"])
    if "url" not in locked:
        return None
    url = str(locked["url"])
    scheme, separator, _ = url.lower().partition(":")
    local = not separator or scheme in ("file", "path") or scheme.endswith("+file")
    return url if local else None


def _store_hash(identity: str) -> str:
    """SHA-256 folded to 160 bits, in Nix's own base 32."""
    folded = bytearray(STORE_HASH_BYTES)
    for index, byte in enumerate(
        hashlib.sha256(identity.encode(errors="replace")).digest()
    ):
        folded[index % STORE_HASH_BYTES] ^= byte
    number = int.from_bytes(folded, "little")
    digits = range(STORE_HASH_BYTES * 8 // 5 - 1, -1, -1)
    return "".join(STORE_DIGITS[number >> (5 * digit) & 31] for digit in digits)
