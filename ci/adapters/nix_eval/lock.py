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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci.errors import CommitFault

STORE_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
STORE_HASH_BYTES = 20
ADVICE = "run `nix flake lock` and commit flake.lock"


@dataclass(frozen=True)
class LockedInput:
    """One input: its name in the lock and what builtins.fetchTree wants to fetch it."""

    name: str
    locked: Mapping[str, Any]

    def store_path(self, store_dir: Path) -> Path | None:
        """Where Nix puts it; None when the lock has no hash to tell."""
        kind, _, digest = str(self.locked.get("narHash", "")).partition("-")
        if kind != "sha256":
            return None
        try:
            content = base64.b64decode(digest, validate=True).hex()
        except binascii.Error:
            return None
        name = self.locked.get("name", "source")
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
    inputs = []
    for name, locked in nodes.items():
        if not isinstance(locked, dict) or _inside(locked):
            continue
        place = _local(locked)
        if place is not None:
            raise CommitFault(
                f"flake.lock locks the input `{name}` to `{place}`, a place on the "
                f"machine that wrote it: use a git or github input instead, {ADVICE}"
            )
        wanted = {key: value for key, value in locked.items() if key != "dir"}
        inputs.append(LockedInput(name, wanted))
    return tuple(inputs)


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
