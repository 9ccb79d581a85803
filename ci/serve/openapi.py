"""`/openapi.json`: OpenAPI 3.1 made from the route table and the pydantic models."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from ci.serve import shapes
from ci.serve.answers import SUFFIXES
from ci.serve.guard import SAFE_METHODS
from ci.serve.route import Answer, Route

REFERENCE = "#/components/schemas/{model}"
ABOUT = """\
Every GET route also answers HEAD. Answers from 400 on have the shape `Error`. Keys may
be added, never removed. A page answers JSON, plain text or HTML by its suffix or by `Accept`.
"""
PATH_PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "number": {
        "description": "the number of a build",
        "schema": {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
    },
    "sha": {
        "description": "a commit's SHA or its first digits",
        "schema": {"type": "string", "pattern": "^[0-9a-fA-F]{7,64}$"},
    },
    "owner": {
        "description": "the owner of a configured repository",
        "schema": {"type": "string"},
    },
    "repo": {
        "description": "the name of a configured repository, without its owner",
        "schema": {"type": "string"},
    },
}
_ANYWHERE = {
    400: "the request cannot be understood",
    403: "not from here: another site's page, or the internet",
    421: "this server does not answer to that Host",
    500: "something in the server broke",
    503: "the history cannot be used now",
}
_ON_CHANGE = {
    401: "the bearer token is missing or wrong",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body has a Content-Encoding",
}


def document(routes: Sequence[Route], version: str) -> bytes:
    """The document as JSON; `version` is the server's."""
    routes = [route for route in routes if not route.hidden]
    schemas, references = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        for path in route.paths:
            operation = _operation(route, path, references)
            paths.setdefault(canonical(path), {})[route.method.lower()] = operation
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "build-server", "version": version, "description": ABOUT},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def canonical(path: str) -> str:
    """aiohttp's `{name:pattern}` as OpenAPI's `{name}`."""
    return re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", path)


Key = tuple[type[BaseModel], JsonSchemaMode]
References = Mapping[Any, dict[str, Any]]


def _schemas(
    routes: Sequence[Route],
) -> tuple[dict[str, Any], References]:
    keys: list[Key] = [(shapes.Error, "serialization")]
    for route in routes:
        if route.body is not None:
            keys.append((route.body, "validation"))
        for answer in route.answers.values():
            keys += [(shape, "serialization") for shape in answer.shapes]
    references, definitions = models_json_schema(
        list(dict.fromkeys(keys)), ref_template=REFERENCE
    )
    return definitions["$defs"], references


def _operation(route: Route, path: str, references: References) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route, path),
        "summary": route.summary,
        "description": inspect.getdoc(route.handler) or "",
        "parameters": [*_path_parameters(path), *_query_parameters(route.query)],
        "responses": _responses(route, path, references),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": False,
            "content": {
                "application/json": {"schema": references[(route.body, "validation")]}
            },
        }
    if route.method not in SAFE_METHODS:
        operation["security"] = [{}, {"token": []}]
    return operation


def _operation_id(route: Route, path: str) -> str:
    suffix = path.rpartition(".")[2] if path != route.path else ""
    return "_".join(part for part in (route.handler.__name__, suffix) if part)


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)[:}]", path):
        yield {"name": name, "in": "path", "required": True, **PATH_PARAMETERS[name]}


def _query_parameters(model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    schema = model.model_json_schema(ref_template=REFERENCE)
    for name, found in schema.get("properties", {}).items():
        known = dict(found)
        description = known.pop("description", "")
        known.pop("title", None)
        yield {
            "name": name,
            "in": "query",
            "required": False,
            "description": description,
            "schema": _parameter(known, schema.get("$defs", {})),
        }


def _parameter(
    schema: dict[str, Any], definitions: Mapping[str, Any]
) -> dict[str, Any]:
    """As it is written in a query: absent is pydantic's null, a flag's default is 0."""
    if "anyOf" in schema:
        (value,) = [part for part in schema["anyOf"] if part.get("type") != "null"]
        if "$ref" in value:
            value = definitions[value["$ref"].rpartition("/")[2]]
        schema = {**value, **schema}
    dropped = {"anyOf", "title"} | ({"default"} if schema["default"] is None else set())
    if schema["default"] is False:
        schema = {**schema, "default": "0"}
    return {key: part for key, part in schema.items() if key not in dropped}


def _responses(route: Route, path: str, references: References) -> dict[str, Any]:
    anywhere = dict(_ANYWHERE)
    if route.method not in SAFE_METHODS:
        anywhere |= _ON_CHANGE
    errors = {code: Answer(why, (shapes.Error,)) for code, why in anywhere.items()}
    return {
        str(code): _response(answer, path, references)
        for code, answer in sorted((errors | dict(route.answers)).items())
    }


def _response(answer: Answer, path: str, references: References) -> dict[str, Any]:
    content: dict[str, Any] = {}
    suffixed = path.endswith(tuple(SUFFIXES))
    found = [references[(shape, "serialization")] for shape in answer.shapes]
    if found and not (answer.text and path.endswith(".txt")):
        schema = found[0] if len(found) == 1 else {"oneOf": found}
        content["application/json"] = {"schema": schema}
    if answer.text and not path.endswith(".json"):
        content["text/plain"] = {"schema": {"type": "string"}}
    if answer.page and not suffixed:
        content["text/html"] = {"schema": {"type": "string"}}
    if answer.media:
        content[answer.media] = {"schema": {"type": "string"}}
    response: dict[str, Any] = {"description": answer.meaning, "content": content}
    if answer.headers:
        response["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}}
            for name, meaning in answer.headers.items()
        }
    return response
