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


def parse_lock(content: bytes | None) -> tuple[LockedInput, ...]:
    """The inputs of a flake.lock (None: there is none) that must be fetched.

    Inputs below the flake's own directory come with it and are left out. Raises
    CommitFault: not a lock file, or it locks a file or directory of this machine.
    """
    if content is None:
        return ()
    try:
        lock = json.loads(content, parse_constant=_no_number)
        nodes = {name: node.get("locked") for name, node in lock["nodes"].items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise CommitFault(f"flake.lock is not a lock file: {ADVICE}") from None
    # By what is locked: two names for the same are one input.
    inputs: dict[str, LockedInput] = {}
    for name, locked in nodes.items():
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
    """The names of a flake's own inputs, by a flake.lock that parse_lock has read."""
    if content is None:
        return frozenset()
    lock = json.loads(content)
    root = lock["nodes"].get(lock.get("root", "root"))
    inputs = root.get("inputs") if isinstance(root, dict) else None
    return frozenset(inputs) if isinstance(inputs, dict) else frozenset()


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
