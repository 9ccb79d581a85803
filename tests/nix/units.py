"""Units as systemd reads them, from what NixOS's options hold; and TOML from values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Options of a unit and what systemd calls them.
UNIT = {
    "description": "Description",
    "documentation": "Documentation",
    "after": "After",
    "before": "Before",
    "bindsTo": "BindsTo",
    "partOf": "PartOf",
    "requires": "Requires",
    "requisite": "Requisite",
    "wants": "Wants",
}
INSTALL = {"wantedBy": "WantedBy", "requiredBy": "RequiredBy"}
SECTIONS = {
    "service": ("Service", "serviceConfig"),
    "socket": ("Socket", "socketConfig"),
    "timer": ("Timer", "timerConfig"),
}
# The part of a store's path that changes with every package.
HASHED = re.compile(r"/nix/store/[a-z0-9]{32}-")


def unit(kind: str, options: Mapping[str, Any]) -> str:
    """The file of a `service`, `socket` or `timer`."""
    section, settings = SECTIONS[kind]
    own = list(_own(options)) + list(_settings(options[settings]))
    described = [*_named(UNIT, options), *_settings(options["unitConfig"])]
    parts = {"Unit": described, section: own, "Install": _named(INSTALL, options)}
    return "\n".join(
        "\n".join([f"[{name}]", *lines, ""]) for name, lines in parts.items() if lines
    )


def without_hashes(text: str) -> str:
    """For a file that stays the same when a package changes."""
    return HASHED.sub("/nix/store/", text)


def _own(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.get("environment", {}).items():
        yield f'Environment="{name}={value}"'
    for program in options.get("path", []):
        yield f"# on PATH: {program}"
    for address in options.get("listenStreams", []):
        yield f"ListenStream={address}"


def _named(names: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    found = []
    for name, key in names.items():
        value = options.get(name)
        if value:
            found.append(
                f"{key}={value if isinstance(value, str) else ' '.join(value)}"
            )
    return found


def _settings(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        for one in value if isinstance(value, list) else [value]:
            yield f"{name}={str(one).lower() if isinstance(one, bool) else one}"


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """A value as TOML: strings, numbers, switches, lists of them, tables."""
    plain, tables = [], []
    for name, value in table.items():
        full = f"{path}{name}"
        if isinstance(value, Mapping):
            tables.append(f"\n[{full}]\n" + toml(value, f"{full}."))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{full}]]\n" + toml(one, f"{full}.") for one in value]
        else:
            plain.append(f"{name} = {json.dumps(value)}\n")
    return "".join(plain + tables)
