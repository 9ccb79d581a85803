"""From pydantic's errors to lines that tell a person what to write instead.

Only the kind of an error, its place and its limits are used, never its input: a secret
may stand where it should not.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ci.config.settings import Settings, documented_keys
from ci.text import printable

_SENTENCES: Mapping[str, str] = {
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "string_type": "must be text in quotes",
    "tuple_type": 'must be a list in brackets, e.g. {leaf} = ["…"]',
    "model_type": "must be a table of keys; write [{key}] above them",
    "missing": "is missing; write {leaf} = …",
    "greater_than_equal": "must be {ge} or more",
}


def described(error: ValidationError) -> list[str]:
    """One line for each error, in the order of the keys."""
    return [_line(detail) for detail in error.errors(include_url=False)]


def _line(detail: ErrorDetails) -> str:
    key = _key(detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(key)}"
    return f"{key}: {_sentence(detail, key)}"


def _sentence(detail: ErrorDetails, key: str) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    if detail["type"] == "literal_error":
        return f"must be {context['expected']}".replace("'", '"')
    sentence = _SENTENCES.get(detail["type"])
    if sentence is None:
        # pydantic's own sentence names the type that it expected, never the input.
        return detail["msg"].replace("Input should", "must")
    return sentence.format(key=key, leaf=_leaf(key), **context)


def _key(place: tuple[int | str, ...]) -> str:
    """`repository[1].branches[0]` for ("repository", 1, "branches", 0)."""
    key = ""
    for part in _as_written(place):
        if isinstance(part, int):
            key += f"[{part}]"
        else:
            key += f".{printable(part)}" if key else printable(part)
    return key


def _as_written(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """pydantic names a key that was left out by its attribute, not as in the file."""
    field = Settings.model_fields.get(str(place[0])) if place else None
    return (field.alias, *place[1:]) if field and field.alias else place


def _leaf(key: str) -> str:
    return re.sub(r"\[\d+\]$", "", key).rpartition(".")[2]


def _suggestion(key: str) -> str:
    """What the writer of an unknown key may have meant: near it, or elsewhere."""
    table, _, leaf = key.rpartition(".")
    known = [path for path, _field in documented_keys()]
    plain = re.sub(r"\[\d+\]", "", table)
    here = {
        path.rpartition(".")[2]: f"{table}.{path.rpartition('.')[2]}".lstrip(".")
        for path in known
        if path.rpartition(".")[0] == plain
    }
    near = difflib.get_close_matches(leaf, here, n=1, cutoff=0.6)
    if near:
        return _meant(here[near[0]])
    elsewhere = [path for path in known if path.rpartition(".")[2] == leaf]
    if elsewhere:
        return _meant(elsewhere[0])
    return "; docs/configuration.md lists them all"


def _meant(path: str) -> str:
    if path.endswith("_file"):
        return f"; did you mean {path}, the path of a file that holds it?"
    return f"; did you mean {path}?"
