"""The types of configuration keys: how a TOML value becomes one that code can use.

What is wrong with a value is said by units.py and names.py; here their functions become
pydantic types, and keys get a default that is written as in TOML.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from ci.config import names, units
from ci.text import quoted

T = TypeVar("T")


def _absolute(example: str, value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(f"must be an absolute path; write e.g. {quoted(example)}")
    return Path(value)


def _secret_file(value: object) -> Path | None:
    """The path of a secret; never repeats the value, which may be the secret itself."""
    if value == "":
        return None
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise ValueError(
            "must be the absolute path of a file that holds the secret, never the "
            'secret itself; write e.g. "/run/secrets/NAME"'
        )
    return Path(value)


def _secret_files(value: object) -> tuple[Path, ...]:
    listed = value if isinstance(value, list) else [value]
    if len(listed) > 2 or (isinstance(value, list) and "" in value):
        raise ValueError(
            "takes one path, or a list of at most two: the new secret and the old one"
        )
    return tuple(path for path in map(_secret_file, listed) if path is not None)


def _not_empty(value: tuple[T, ...]) -> tuple[T, ...]:
    if not value:
        raise ValueError("must name at least one")
    if len(set(value)) < len(value):
        raise ValueError("names something twice")
    return value


def _interval(value: object) -> float:
    """Seconds, or infinity for "never"."""
    return math.inf if value == "never" else units.duration(value)


def tables(value: object) -> object:
    if isinstance(value, dict):
        raise ValueError("write [[repository]], with two brackets on each side")
    if not value:
        raise ValueError(
            'no repository is named; add [[repository]] with name = "owner/name"'
        )
    return value


def web_url(
    example: str, *, optional: bool = False, plain_http: bool = False
) -> BeforeValidator:
    def check(value: object) -> str:
        if optional and value == "":
            return ""
        return units.web_url(value, example=example, plain_http=plain_http)

    return BeforeValidator(check)


StateDir = Annotated[Path, BeforeValidator(partial(_absolute, "/var/lib/build-server"))]
Duration = Annotated[float, BeforeValidator(units.duration)]
# Infinity is "never".
Interval = Annotated[float, BeforeValidator(_interval)]
Size = Annotated[int, BeforeValidator(units.size)]
Address = Annotated[units.Address, BeforeValidator(units.address)]
SecretFile = Annotated[Path | None, BeforeValidator(_secret_file)]
SecretFiles = Annotated[tuple[Path, ...], BeforeValidator(_secret_files)]
Program = Annotated[str, AfterValidator(units.program)]
Folder = Annotated[str, AfterValidator(units.folder)]
AppId = Annotated[str, BeforeValidator(names.app_id)]
Context = Annotated[str, AfterValidator(names.status_context)]
PublicKey = Annotated[str, AfterValidator(names.public_key)]
RepositoryName = Annotated[str, AfterValidator(names.repository_name)]
HostName = Annotated[str, BeforeValidator(units.host_name)]
Resolvers = Annotated[
    tuple[Annotated[units.Address, BeforeValidator(units.resolver)], ...],
    AfterValidator(_not_empty),
]
Branches = Annotated[
    tuple[Annotated[str, AfterValidator(names.branch_name)], ...],
    AfterValidator(_not_empty),
]
Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(names.target_pattern)], ...],
    AfterValidator(_not_empty),
]


def key(default: Any, description: str, **limits: Any) -> Any:
    """A documented key; its default is written, and checked, as a value of TOML."""
    return Field(
        default=default, validate_default=True, description=description, **limits
    )


class Table(BaseModel):
    """A table of the file: frozen, unknown keys refused, input never in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
