"""The keys of the configuration, as the NixOS module reads them from a JSON file.

`python -m tests.nix.settings` writes that file anew; a test compares.
"""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path

from pydantic.fields import FieldInfo

from ci.config.fields import Table
from ci.config.settings import documented_keys
from tests.fakes.tree import CHECKOUT

FILE = CHECKOUT / "nix/modules/nixos/build-server/settings.json"
Key = dict[str, object]


def keys() -> dict[str, Key]:
    """Every key by its path, with its default as TOML has it and what it means."""
    return {path: _key(field) for path, field in documented_keys()}


def written() -> str:
    return json.dumps(keys(), indent=2, ensure_ascii=False) + "\n"


def _key(field: FieldInfo) -> Key:
    key: Key = {"kind": _kind(field), "meaning": field.description}
    if typing.get_origin(field.annotation) is typing.Literal:
        key["values"] = list(typing.get_args(field.annotation))
    if key["kind"] not in ("table", "tables") and not field.is_required():
        key["default"] = field.default
    return key


def _kind(field: FieldInfo) -> str:
    """What a person writes: a table, or a value of some kind."""
    annotation, default = field.annotation, field.default
    if any(_is_table(kind) for kind in _parts(annotation)):
        return "tables" if typing.get_origin(annotation) is tuple else "table"
    if typing.get_origin(annotation) is typing.Literal:
        return "choice"
    if isinstance(default, bool):
        return "switch"
    if isinstance(default, int):
        return "number"
    if isinstance(default, list):
        return "list"
    if typing.get_origin(annotation) is tuple:
        return "files"
    if Path in _parts(annotation) and type(None) in _parts(annotation):
        return "file"
    return {float: "duration", int: "size"}.get(typing.cast(type, annotation), "text")


def _parts(annotation: object) -> tuple[object, ...]:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation):
        return typing.get_args(annotation)
    return (annotation,)


def _is_table(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Table)


if __name__ == "__main__":
    FILE.write_text(written())
