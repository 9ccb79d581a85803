"""What GitHub's REST description and its unwritten limits demand of a request.

`tests/samples/github/openapi.json` is GitHub's own description; ORIGIN.md beside it
lists the limits that it leaves out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from werkzeug.datastructures import Headers, ImmutableMultiDict

SAMPLES = Path(__file__).parent.parent / "samples" / "github"
HOST = "https://api.github.com"
API_VERSION = "2022-11-28"

DESCRIPTION_LIMIT = 140
CONTEXT_LIMIT = 255
STATUSES_LIMIT = 1000

_FULL_SHA = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass
class Request:
    """One HTTP request in the shape that openapi-core reads."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None
    host_url: str = HOST
    full_url_pattern: str = ""
    parameters: RequestParameters = field(default_factory=RequestParameters)

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")


@dataclass(frozen=True)
class Response:
    """One HTTP response in the shape that openapi-core reads."""

    status_code: int
    data: bytes | None
    content_type: str = "application/json"
    headers: Headers = field(default_factory=Headers)


@functools.cache
def description() -> dict[str, Any]:
    """GitHub's REST description, as far as it is kept here."""
    text = (SAMPLES / "openapi.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@functools.cache
def _openapi() -> OpenAPI:
    return OpenAPI.from_dict(
        description(),
        config=Config(spec_validator_cls=None),
    )


def example(name: str) -> Any:
    """A fresh copy of one of GitHub's example bodies."""
    return deepcopy(description()["components"]["examples"][name]["value"])


def as_request(
    method: str, path: str, headers: Mapping[str, str], body: bytes
) -> Request:
    """Wrap what a server received; `path` is raw, with the query if there is one."""
    path, _, query = path.partition("?")
    return Request(
        method=method.lower(),
        path=path,
        headers=headers,
        body=body or None,
        full_url_pattern=HOST + path,
        parameters=RequestParameters(query=ImmutableMultiDict(parse_qsl(query))),
    )


def broken_rules(request: Request) -> list[str]:
    """Every rule of GitHub's that `request` breaks, one sentence each."""
    found = list(_broken_headers(request.headers))
    try:
        _openapi().validate_request(request)
    except OpenAPIError as error:
        found.append(f"{request.method} {request.path}: {error.__cause__ or error}")
    else:
        if request.method == "post" and "/statuses/" in request.path:
            sha = request.path.rsplit("/", 1)[-1]
            found.extend(broken_limits(sha, json.loads(request.body or b"{}")))
    return found


def wrong_reply(request: Request, status: int, body: bytes) -> list[str]:
    """What a reply of the stand-in itself gets wrong by GitHub's description."""
    try:
        _openapi().validate_response(request, Response(status_code=status, data=body))
    except OpenAPIError as error:
        return [f"the stand-in answers {request.path} wrongly: {error}"]
    return []


def _broken_headers(headers: Mapping[str, str]) -> list[str]:
    wanted = {
        "User-Agent": "a User-Agent",
        "Authorization": "a credential",
        "Accept": "an Accept header",
    }
    found = [
        f"the request lacks {what}"
        for name, what in wanted.items()
        if not headers.get(name)
    ]
    if headers.get("X-GitHub-Api-Version") != API_VERSION:
        found.append(f"X-GitHub-Api-Version is not {API_VERSION}")
    return found


def broken_limits(sha: str, status: Mapping[str, Any]) -> list[str]:
    """What `status` for `sha` breaks of the limits that the description leaves out."""
    text = status.get("description") or ""
    context = status.get("context", "default")
    target = status.get("target_url")
    rules = {
        f"{sha!r} is no full SHA": not _FULL_SHA.fullmatch(sha),
        f"description is too long (maximum is {DESCRIPTION_LIMIT} characters)": len(
            text
        )
        > DESCRIPTION_LIMIT,
        "description doesn't accept 4-byte Unicode": _beyond_bmp(text),
        "description has control characters": _controls(text),
        f"context is too long (maximum is {CONTEXT_LIMIT} characters)": len(context)
        > CONTEXT_LIMIT,
        "context doesn't accept 4-byte Unicode": _beyond_bmp(context),
        "context has control characters": _controls(context),
        "context is empty": not context,
        "Target url must use http(s) scheme": target is not None
        and not target.startswith(("http://", "https://")),
    }
    return [rule for rule, broken in rules.items() if broken]


def _beyond_bmp(text: str) -> bool:
    return any(ord(character) > 0xFFFF for character in text)


def _controls(text: str) -> bool:
    return any(ord(character) < 0x20 or ord(character) == 0x7F for character in text)
