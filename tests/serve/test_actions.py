"""Trigger, cancel, retry: the row that is written, the wait for it, every answer."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.history import requests
from ci.history.database import Database
from ci.models import BuildState, RequestKind
from ci.serve import actions
from tests.serve.conftest import REPO, Private, Served, error_of
from tests.serve.desk import desk


async def post(client: Private, path: str, **how: Any) -> tuple[int, Any]:
    async with client.post(path, **how) as response:
        return response.status, await response.json()


async def open_rows(database: Database) -> int:
    def count(connection: sqlite3.Connection) -> int:
        return sum(len(requests.unanswered(connection, kind)) for kind in RequestKind)

    return await database.read(count)


@pytest.mark.parametrize(
    ("outcome", "status", "word"),
    [
        ("triggered", 202, "triggered"),
        ("already_running", 200, "already_running"),
        ("already_built", 200, "already_running"),
    ],
)
async def test_trigger_answers_with_the_build(
    served: Served, client: Private, outcome: str, status: int, word: str
) -> None:
    build = await served.add(1)
    answer = {"status": outcome, "message": "so it is", "build": build}
    body = {"repo": REPO, "ref": "dev", "targets": ["checks.*"], "force": True}
    async with desk(served, lambda request: answer) as seen:
        assert await post(client, "/build/trigger", json=body) == (
            status,
            {
                "status": word,
                "message": "so it is",
                "build": (await (await client.get("/builds")).json())["builds"][0],
                "request": 1,
            },
        )
    (request,) = seen
    assert (request.kind, request.body) == (RequestKind.TRIGGER, body)
    assert request.asked_by == "127.0.0.1"


@pytest.mark.parametrize("body", [b"", b"  \n", b"{}", b'{"repo": null, "rev": null}'])
async def test_trigger_without_wishes_leaves_the_defaults_to_intake(
    served: Served, client: Private, body: bytes
) -> None:
    answer = {"status": "triggered", "message": "", "build": await served.add(1)}
    async with desk(served, lambda request: answer) as seen:
        status, _ = await post(client, "/build/trigger", data=body)
    assert status == 202
    assert seen[0].body == {}


@pytest.mark.parametrize("verb", ["cancel", "retry"])
async def test_cancel_and_retry_answer_with_the_build(
    served: Served, client: Private, verb: str
) -> None:
    state = BuildState.RUNNING if verb == "cancel" else BuildState.FAILED
    build = await served.add(1, state)
    async with desk(served, lambda request: {"build": request.build}) as seen:
        status, body = await post(client, f"/builds/{build}/{verb}")
    assert (status, body["number"], body["state"]) == (202, build, state)
    assert [(request.kind, request.build) for request in seen] == [(verb, build)]


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("cancel", BuildState.SUCCEEDED),
        ("cancel", BuildState.SKIPPED),
        ("retry", BuildState.QUEUED),
        ("retry", BuildState.RUNNING),
    ],
)
async def test_what_cannot_be_is_a_conflict_that_names_the_state(
    served: Served, client: Private, verb: str, state: BuildState
) -> None:
    build = await served.add(1, state)
    body = await error_of(client, "POST", f"/builds/{build}/{verb}", 409)
    assert body["detail"] == {"build": build, "state": state}
    assert await open_rows(served.database) == 0


@pytest.mark.parametrize("path", ["/builds/1/cancel", "/builds/x/retry"])
async def test_unknown_builds_are_not_asked_about(
    served: Served, client: Private, path: str
) -> None:
    await error_of(client, "POST", path, 404)
    assert await open_rows(served.database) == 0


async def test_refusal_of_the_department_is_passed_on(
    served: Served, client: Private
) -> None:
    refusal = {"error": "no branch nope", "status_code": 404, "detail": {"a": 1}}
    async with desk(served, lambda request: refusal):
        body = await error_of(
            client, "POST", "/build/trigger", 404, json={"ref": "nope"}
        )
    assert (body["error"], body["detail"]) == ("no branch nope", {"a": 1})


async def test_answer_does_not_wait_longer_than_it_may(served: Served) -> None:
    served.patience = actions.PATIENCE
    build = await served.add(1, BuildState.FAILED)
    async with TestClient(TestServer(served.application())) as client:
        begun = time.monotonic()
        (status, body), (retried, recorded) = await asyncio.gather(
            post(client, "/build/trigger"), post(client, f"/builds/{build}/retry")
        )
        waited = time.monotonic() - begun
    # Nobody rings meanwhile: who did not look at the clock would wait for ever.
    assert actions.PATIENCE <= waited < actions.PATIENCE + 20
    assert (status, retried) == (202, 202)
    assert (body["status"], body["build"]) == ("triggered", None)
    assert recorded["build"] is None
    assert {body["request"], recorded["request"]} == {1, 2}
    assert await open_rows(served.database) == 2


async def test_outcome_is_told_when_the_bell_rings(
    served: Served, client: Private
) -> None:
    """The answer comes with the ring, long before the patience ends."""
    build = await served.add(1)
    asked = served.wake.count
    waiting = asyncio.create_task(post(client, f"/builds/{build}/cancel"))
    while not await open_rows(served.database):
        asked = await served.wake.wait(asked, 10)
    await served.database.write(requests.answer, 1, at=1, answer={"build": build})
    begun = time.monotonic()
    served.wake()
    status, body = await waiting
    assert (status, body["number"]) == (202, build)
    assert time.monotonic() - begun < served.patience / 2


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b"nonsense", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"dev"', "not a JSON object"),
        (b"\xff\xfe", "not a JSON object"),
        (b"[" * 20_000, "not a JSON object"),
        (b'{"branch": "dev"}', "no key of the body branch; known: repo, ref, rev"),
        (b'{"ref": 7}', "ref"),
        (b'{"ref": ""}', "ref"),
        (b'{"ref": "refs/heads/dev"}', 'write the branch: "dev"'),
        (b'{"ref": "--upload-pack=x"}', "is not a branch name"),
        (b'{"rev": "HEAD"}', "first 7 or more digits"),
        (b'{"rev": "abc"}', "first 7 or more digits"),
        (b'{"force": "yes"}', "force"),
        (b'{"force": 1}', "force"),
        (b'{"targets": "checks.*"}', "targets"),
        (b'{"targets": ["a b"]}', "is not a target pattern"),
    ],
)
async def test_bodies_that_cannot_be_meant_are_refused_and_not_recorded(
    served: Served, client: Private, body: bytes, names: str
) -> None:
    answer = await error_of(client, "POST", "/build/trigger", 400, data=body)
    assert names in answer["error"]
    assert await open_rows(served.database) == 0


async def test_unknown_repository_is_refused_at_once(
    served: Served, client: Private
) -> None:
    body = await error_of(
        client, "POST", "/build/trigger", 404, json={"repo": "owner/typo"}
    )
    assert body["detail"]["configured"] == [REPO]
    assert await open_rows(served.database) == 0


async def test_body_over_the_limit_is_refused(served: Served, client: Private) -> None:
    for path in ("/build/trigger", f"/builds/{await served.add(1)}/cancel"):
        body = b'{"ref": "' + b"x" * 70_000 + b'"}'
        answer = await error_of(client, "POST", path, 413, data=body)
        assert "65536 bytes" in answer["error"]
