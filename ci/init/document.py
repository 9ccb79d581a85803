"""The configuration as `init` writes it: every key with its meaning and its default.

What is set is written; all the rest stands there as a comment with its default, so that
taking the `# ` away changes nothing.
"""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ci.config import Settings, parse
from ci.config.settings import documented_keys

HEAD = """\
# build-server's configuration, written by `build-server init`. What is commented out is
# the default. `build-server check-config` judges the file, docs/configuration.md has all.
"""
WIDTH = 96
REPOSITORY = "repository"

Value = str | int | bool | list[str]


def render(values: Mapping[str, Value]) -> str:
    """The file with `values` by their paths: `state_dir`, `github.token_file`, ….

    Those of `repository.…` make the one repository. Raises ConfigurationError when the
    file would not be good.
    """
    text = HEAD + "\n".join(_lines(values)) + "\n"
    read(text)
    return text


def read(text: str) -> Settings:
    """The settings that a file with this text has; touches no other file."""
    return parse(tomllib.loads(text))


def _lines(values: Mapping[str, Value]) -> Iterator[str]:
    keys = dict(documented_keys())
    tables = {path.partition(".")[0] for path in keys if "." in path}
    for path, field in keys.items():
        if path in tables:
            yield from ("", *_heading(path, field, values))
        else:
            yield from _key(path, field, values)


def _heading(
    table: str, field: FieldInfo, values: Mapping[str, Value]
) -> Iterator[str]:
    yield f"# {_first_sentence(field)}"
    if table == REPOSITORY:
        yield f"[[{table}]]"
    elif field.default is None and not _wanted(table, values):
        # A table that is there switches something on.
        yield f"# [{table}]"
    else:
        yield f"[{table}]"


def _wanted(table: str, values: Mapping[str, Value]) -> bool:
    return any(path.startswith(f"{table}.") for path in values)


def _key(path: str, field: FieldInfo, values: Mapping[str, Value]) -> Iterator[str]:
    name = path.rpartition(".")[2]
    meaning = _first_sentence(field)
    if path in values:
        line = f"{name} = {_toml(values[path])}"
    elif field.default is PydanticUndefined:
        line = f"# {name} = …"
    else:
        line = f"# {name} = {_toml(field.default)}"
    if len(line) + len(meaning) + 4 <= WIDTH:
        yield f"{line}  # {meaning}"
    else:
        yield from (f"# {part}" for part in textwrap.wrap(meaning, WIDTH - 2))
        yield line


def _first_sentence(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    return re.split(r"(?<!e\.g)\. ", text)[0].rstrip(".") + "."


def _toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists of them are TOML's."""
    listed = list(value) if isinstance(value, tuple) else value
    return json.dumps(listed, ensure_ascii=False).replace("\x7f", "\\u007f")
