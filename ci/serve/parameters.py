"""What callers send: query strings, path segments and bodies, checked before use.

Each query is a pydantic model; the same models describe the parameters in
`/openapi.json`. Whatever does not fit is a RequestError with a sentence that says what
was expected.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from ci.config import Repository, Settings
from ci.errors import RequestError
from ci.models import BuildState
from ci.serve.shapes import SHA_PREFIX, TriggerBody

MAX_LINES = 10_000
MAX_PAGE = 100
MAX_DAYS = 100
MAX_BODY = 64 * 1024
BODY_SECONDS = 8.0
MAX_NUMBER = 2**53 - 1

Q = TypeVar("Q", bound=BaseModel)


def _digits(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,16}", value):
        raise ValueError("not a whole number")
    return value


def _flag(value: object) -> object:
    if value not in ("0", "1", "false", "true", False, True):
        raise ValueError("neither 0 nor 1")
    return value in ("1", "true", True)


def _given(value: object) -> object:
    """An empty field of a form is one that nobody has filled in."""
    return None if value == "" else value


WHOLE = BeforeValidator(_digits)
_FIELD = BeforeValidator(_given)
Number = Annotated[int, Field(ge=1, le=MAX_NUMBER), WHOLE]
Bytes = Annotated[int, Field(ge=0, le=MAX_NUMBER), WHOLE]
Flag = Annotated[
    bool,
    BeforeValidator(_flag),
    WithJsonSchema({"type": "string", "enum": ["0", "1", "false", "true"]}),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
# Fields of the forms on our pages, which send them empty as well.
NameField = Annotated[
    Name | None, _FIELD, WithJsonSchema({"type": "string", "maxLength": 255})
]
StateField = Annotated[
    BuildState | None,
    _FIELD,
    WithJsonSchema({"type": "string", "enum": [*map(str, BuildState), ""]}),
]

DaysField = Annotated[
    Annotated[int, Field(ge=1, le=MAX_DAYS), WHOLE] | None,
    _FIELD,
    WithJsonSchema({"type": "string", "pattern": "^([1-9][0-9]?|100)?$"}),
]


class Query(BaseModel):
    """Base of every query: unknown parameters are refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(Query):
    """A route that takes no parameters."""


class NoBody(Query):
    """A route that takes no keys: an empty body, or `{}`."""


class StatusQuery(Query):
    repo: Name | None = Field(None, description="a configured repository")
    branch: Name | None = Field(None, description="a branch of it")


class BuildsQuery(Query):
    repo: NameField = Field(None, description="a repository by its configured name")
    branch: NameField = Field(None, description="a branch")
    state: StateField = Field(None, description="one of " + ", ".join(BuildState))
    q: NameField = Field(
        None, description="a part of the title, of the SHA or of the author"
    )
    before: Number | None = Field(
        None,
        description="a build number: only builds below it (`next` of the page before)",
    )
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), WHOLE] = Field(
        20, description=f"a whole number from 1 to {MAX_PAGE}"
    )


class LogsQuery(Query):
    lines: Annotated[int, Field(ge=1, le=MAX_LINES), WHOLE] = Field(
        100,
        description="how many of the last lines, a whole number from 1 to "
        f"{MAX_LINES}; /builds/N/log gives all",
    )
    build: Number | None = Field(None, description="a build number")
    follow: Flag = Field(False, description="1 to stream text/plain, else 0")


class LogQuery(Query):
    tail: Number | None = Field(
        None, description="how many of the last bytes, a whole number from 1 on"
    )
    offset: Bytes | None = Field(
        None, description="the first byte wanted, a whole number from 0 on"
    )
    attempt: Number | None = Field(
        None,
        description="one of the build's attempts, from 1 on; the last when left out",
    )
    target: Name | None = Field(
        None, description="a target of the build: only lines of its own derivation"
    )
    follow: Flag = Field(
        False, description="1 to stream until the attempt ends, else 0"
    )
    times: Flag = Field(
        False,
        description="1 to tell when the first byte of each line was written, to a tenth "
        "of a second, else 0",
    )


def query(request: web.Request, model: type[Q]) -> Q:
    """The query string as `model`; raises RequestError 400."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name in given:
            raise RequestError(
                400, f"{name} is given twice; give it once", {"parameter": name[:100]}
            )
        given[name] = value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _refusal(error, model, "query parameter") from error


async def trigger_body(request: web.Request) -> dict[str, Any]:
    """The keys that the caller gave, checked; an empty body is no keys."""
    raw = await read_body(request)
    return trigger_keys(raw) if raw.strip() else {}


def trigger_keys(raw: bytes) -> dict[str, Any]:
    """The keys of a trigger's JSON body, checked."""
    try:
        body = TriggerBody.model_validate_json(raw)
    except ValidationError as error:
        raise _refusal(error, TriggerBody, "key of the body") from error
    return body.model_dump(exclude_unset=True, exclude_none=True)


async def no_body(request: web.Request) -> None:
    """Nothing, or `{}`; raises RequestError 400 for anything else."""
    raw = await read_body(request)
    if raw.strip():
        try:
            NoBody.model_validate_json(raw)
        except ValidationError as error:
            raise _refusal(error, NoBody, "key of the body") from error


async def read_body(request: web.Request) -> bytes:
    """At most MAX_BODY bytes within BODY_SECONDS; aiohttp itself sets no time limit."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise RequestError(
            408, f"the body did not arrive within {BODY_SECONDS:g} s; send it again"
        ) from error


def build_number(request: web.Request) -> int:
    """`{number}` of the path; raises RequestError 404 when no build can have it."""
    text = request.match_info["number"]
    if not re.fullmatch(r"[1-9][0-9]{0,15}", text) or int(text) > MAX_NUMBER:
        raise no_build(text[:40])
    return int(text)


def no_build(number: int | str) -> RequestError:
    """404 for a build that is not there."""
    return RequestError(
        404,
        f"there is no build {number}; GET /builds lists the builds there are",
        {"build": number},
    )


def sha_prefix(request: web.Request) -> str:
    """`{sha}` of the path in lower case; raises RequestError 400."""
    text = request.match_info["sha"].lower()
    if not re.fullmatch(SHA_PREFIX, text):
        raise RequestError(
            400,
            "a commit is named by its SHA or the first 7 or more digits of it",
            {"sha": text[:100]},
        )
    return text


def configured(settings: Settings, name: str | None) -> Repository:
    """The configured repository of that name, the first for None; RequestError 404."""
    if name is None:
        return settings.repositories[0]
    found = named(settings, name)
    if found is None:
        raise no_repository(settings, name)
    return found


def named(settings: Settings, name: str) -> Repository | None:
    """The configured repository of that name; GitHub's names ignore case."""
    for repository in settings.repositories:
        if repository.name.casefold() == name.casefold():
            return repository
    return None


def no_repository(settings: Settings, name: str) -> RequestError:
    """404 for a repository that nobody has heard of, with those that are configured."""
    names = [repository.name for repository in settings.repositories]
    return RequestError(
        404,
        f"there is no repository {name}; configured: {', '.join(names)}",
        {"repo": name, "configured": names},
    )


def _refusal(error: ValidationError, model: type[BaseModel], what: str) -> RequestError:
    """One sentence for the first thing that does not fit."""
    first = error.errors(include_url=False, include_context=False)[0]
    if not first["loc"]:
        return RequestError(
            400,
            "the body is not a JSON object; send {} or nothing for the defaults",
            {"problem": first["msg"]},
        )
    name = str(first["loc"][0])[:100]
    known = {field.alias or key: field for key, field in model.model_fields.items()}
    if name not in known:
        sentence = f"there is no {what} {name}; known: {', '.join(known) or 'none'}"
        return RequestError(400, sentence, {"parameter": name, "known": list(known)})
    problem = first["msg"].removeprefix("Value error, ")
    return RequestError(
        400,
        f"the {what} {name} cannot be used: {problem}; expected: "
        f"{known[name].description}",
        {"parameter": name, "problem": problem},
    )
