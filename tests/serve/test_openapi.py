"""`/openapi.json` says what the application does: the same routes, statuses, shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import OpenAPIV31SpecValidator

from ci.models import BuildState, Target
from ci.serve import openapi
from ci.serve.routes import ROUTES
from tests.fakes.fuzzer import fuzz
from tests.serve.conftest import Private, Served
from tests.serve.desk import desk

# Seconds at most, for what is random; a real run of the fuzzer over every route.
FUZZING = 10
HERE = {"number": "2", "sha": "0000001", "owner": "owner", "repo": "name"}
METHODS = {"get", "post", "put", "delete", "patch"}


@pytest.fixture
async def document(client: Private) -> Any:
    async with client.get("/openapi.json") as response:
        assert response.content_type == "application/json"
        return await response.json()


def test_document_is_valid(document: Any) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_in_the_document_and_the_reverse(
    served: Served, document: Any
) -> None:
    hidden = {
        (route.method.lower(), openapi.canonical(route.path))
        for route in ROUTES
        if route.hidden
    }
    registered = {
        (route.method.lower(), openapi.canonical(route.resource.canonical))
        for route in served.application().router.routes()
        if route.resource is not None and route.method != "HEAD"
    } - hidden
    documented = {
        (method, path)
        for path, operations in document["paths"].items()
        for method in METHODS & set(operations)
    }
    assert registered == documented


def test_every_key_of_an_answer_is_promised(document: Any) -> None:
    for name, schema in document["components"]["schemas"].items():
        if schema["type"] == "object" and name != "TriggerBody":
            assert set(schema["required"]) == set(schema["properties"]), name


async def test_head_answers_wherever_get_does(
    served: Served, client: Private, document: Any
) -> None:
    await served.add(1, BuildState.SUCCEEDED, log=b"line\n")
    await served.add(2, BuildState.RUNNING, log=b"line\n")
    for path, operations in document["paths"].items():
        for name, value in HERE.items():
            path = path.replace(f"{{{name}}}", value)
        follow = "?follow=1" if path.endswith(("/log", "/logs")) else ""
        if "get" in operations:
            async with client.head(path + follow) as response:
                assert response.status == 200, path
                assert await response.read() == b""


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_fuzzer_finds_no_answer_that_is_not_documented(
    served: Served, tmp_path: Path
) -> None:
    good = Target("packages.default", BuildState.SUCCEEDED, 1.0, None, {"out": "/x"})
    for number in range(1, 4):
        await served.add(
            number, BuildState.SUCCEEDED, targets=(good,), log=b"line\n" * 10
        )
    answer = {"status": "triggered", "message": "queued", "build": 1}
    async with (
        TestClient(TestServer(served.application())) as client,
        desk(served, lambda request: answer),
    ):
        code, output = await fuzz(
            str(client.make_url("")).rstrip("/"), tmp_path, FUZZING
        )
    assert code == 0, output
    assert f"Tested: {_operations()}" in output, output


def _operations() -> int:
    """How many the fuzzer is sent at: all that end, but where it reads of them."""
    document = json.loads(openapi.document(ROUTES, "1"))
    return sum(
        method in METHODS and not path.endswith(("/events", "/openapi.json"))
        for path, operations in document["paths"].items()
        for method in operations
    )
