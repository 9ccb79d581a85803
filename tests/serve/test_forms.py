"""Forms: what the pages send is done as for a program, and answered with a page."""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.config import Secrets
from ci.history import requests
from ci.history.requests import Request
from ci.models import BuildState, RequestKind
from tests.serve.conftest import REPO, Private, Served, error_of, sha
from tests.serve.desk import desk
from tests.serve.page import BROWSER, Form, Page, page

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TOKEN = "correct-horse-battery"
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


async def send(
    client: Private, path: str, fields: dict[str, str], **headers: str
) -> tuple[int, str, str]:
    """As a browser sends a form; returns status, `Location` and body."""
    async with client.post(
        path,
        data=urlencode(fields),
        headers={**FORM, **BROWSER, **SAME_SITE, **headers},
        allow_redirects=False,
    ) as response:
        body = await response.text()
        if response.status >= 400:
            assert response.content_type == "text/html"
            assert not Page(body).strange
        return response.status, response.headers.get("Location", ""), body


async def open_requests(served: Served) -> list[Request]:
    def read(connection: sqlite3.Connection) -> list[Request]:
        return [
            request
            for kind in RequestKind
            for request in requests.unanswered(connection, kind)
        ]

    return await served.database.read(read)


async def form_of(client: Private, number: int) -> Form:
    (form,) = (await page(client, f"/builds/{number}")).forms
    assert form.method == "post"
    return form


def done(request: Request) -> dict[str, Any]:
    return {"build": request.build}


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        (BuildState.QUEUED, {"Cancel": "cancel"}),
        (BuildState.RUNNING, {"Cancel": "cancel"}),
        (BuildState.FAILED, {"Retry": "retry"}),
        (BuildState.ERROR, {"Retry": "retry"}),
        (BuildState.CANCELLED, {"Retry": "retry"}),
        (BuildState.SKIPPED, {"Retry": "retry"}),
        (BuildState.SUCCEEDED, {"Retry": "retry", "Pin": "pin"}),
    ],
)
async def test_the_page_offers_what_can_be_done_and_that_is_done(
    served: Served, client: Private, state: BuildState, buttons: dict[str, str]
) -> None:
    number = await served.add(1, state)
    here = f"/builds/{number}"
    form = await form_of(client, number)
    assert form.buttons == {name: f"{here}/{verb}" for name, verb in buttons.items()}
    assert form.fields == {}
    async with desk(served, done) as seen:
        for path in form.buttons.values():
            assert (await send(client, path, {}))[:2] == (303, here)
    assert [request.kind for request in seen] == [
        verb for verb in buttons.values() if verb != "pin"
    ]
    if state is BuildState.SUCCEEDED:
        form = await form_of(client, number)
        assert form.buttons == {"Retry": f"{here}/retry", "Unpin": f"{here}/unpin"}
        assert (await send(client, f"{here}/unpin", {}))[:2] == (303, here)
        assert "Pin" in (await form_of(client, number)).buttons


async def test_programs_get_what_they_always_got(
    served: Served, client: Private
) -> None:
    """Also those that send JSON as `curl -d` does: with the type of a form."""
    number = await served.add(1, BuildState.FAILED)
    answer = {"status": "triggered", "message": "queued", "build": number}
    async with desk(served, lambda request: answer) as seen:
        for headers in (FORM, {}, {**FORM, "Accept": "application/json"}, BROWSER):
            async with client.post(
                "/build/trigger", data=b'{"ref": "dev"}', headers=headers
            ) as response:
                assert response.status == 202
                assert (await response.json())["build"]["number"] == number
            async with client.post(
                f"/builds/{number}/retry", headers=headers
            ) as response:
                assert response.status == 202
                assert (await response.json())["number"] == number
    assert {str(request.body) for request in seen} == {"{'ref': 'dev'}", "{}"}


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({}, {"force": False}),
        (
            {"where": f"{REPO} main", "rev": ""},
            {"repo": REPO, "ref": "main", "force": False},
        ),
        (
            {"where": f"{REPO} dev", "rev": " ABCDEF0 ", "force": "true"},
            {"repo": REPO, "ref": "dev", "rev": "abcdef0", "force": True},
        ),
    ],
)
async def test_a_trigger_says_what_its_fields_say(
    served: Served, client: Private, fields: dict[str, str], body: dict[str, object]
) -> None:
    number = await served.add(1)
    answer = {"status": "triggered", "message": "queued", "build": number}
    async with desk(served, lambda request: answer) as seen:
        status, location, _ = await send(client, "/build/trigger", fields)
    assert (status, location) == (303, f"/builds/{number}")
    assert seen[0].body == body


async def test_the_first_page_offers_to_build_a_branch(
    served: Served, client: Private
) -> None:
    number = await served.add(1)
    answer = {"status": "already_built", "message": "", "build": number}
    (form,) = [
        form
        for form in (await page(client, "/")).forms
        if form.action == "/build/trigger"
    ]
    assert set(form.fields) == {"where", "rev", "force"}
    filled = {"where": f"{REPO} dev", "rev": sha(1)[:7].upper()}
    async with desk(served, lambda request: answer) as seen:
        status, location, _ = await send(client, form.action, filled)
    assert (status, location) == (303, f"/builds/{number}")
    assert seen[0].body["rev"] == sha(1)[:7]


async def test_what_is_acted_on_later_leads_to_what_can_be_seen_now(
    served: Served,
) -> None:
    served.patience = 0.1
    async with TestClient(TestServer(served.application())) as client:
        assert (await send(client, "/build/trigger", {}))[:2] == (303, "/")
    assert len(await open_requests(served)) == 1


@pytest.mark.parametrize(
    ("path", "fields", "status", "names"),
    [
        ("/build/trigger", {"where": "owner/typo dev"}, 404, "configured: owner/name"),
        ("/build/trigger", {"rev": "HEAD"}, 400, "first 7 or more digits"),
        ("/build/trigger", {"where": f"{REPO} --x"}, 400, "is not a branch name"),
        ("/build/trigger", {"branch": "dev"}, 400, "no field branch"),
        ("/builds/1/retry", {"force": "true"}, 400, "no field force"),
        ("/builds/1/retry", {"where": "x" * 70_000}, 413, "65536 bytes"),
        ("/builds/1/cancel", {}, 409, "there is nothing to cancel"),
        ("/builds/1/pin", {}, 409, "only what succeeded can be pinned"),
        ("/builds/9/retry", {}, 404, "no build 9"),
    ],
)
async def test_what_cannot_be_is_a_page_and_not_recorded(
    served: Served,
    client: Private,
    path: str,
    fields: dict[str, str],
    status: int,
    names: str,
) -> None:
    await served.add(1, BuildState.FAILED)
    found, location, body = await send(client, path, fields)
    assert (found, location) == (status, "")
    assert names in body
    assert await open_requests(served) == []


@pytest.mark.parametrize(
    "raw",
    ["rev=1&rev=2", "&".join(f"f{n}=1" for n in range(30)), "rev=%ff", "rev=\xff"],
)
async def test_forms_that_no_page_makes_are_refused(client: Private, raw: str) -> None:
    async with client.post(
        "/build/trigger", data=raw.encode("latin-1"), headers={**FORM, **BROWSER}
    ) as response:
        assert response.status == 400, await response.text()


async def test_with_a_token_the_form_asks_for_it_and_carries_it(served: Served) -> None:
    served.secrets = Secrets(api_token=TOKEN)
    number = await served.add(1, BuildState.FAILED)
    path = f"/builds/{number}/retry"
    async with TestClient(TestServer(served.application())) as client:
        form = await form_of(client, number)
        assert form.fields == {"token": ""}
        for wrong in ({}, {"token": ""}, {"token": TOKEN[:-1]}, {"token": "\u00e4"}):
            status, _, body = await send(client, path, wrong)
            assert status == 401
            assert "asks for its token" in body
        async with desk(served, done) as seen:
            status, location, _ = await send(client, path, {"token": TOKEN})
        assert (status, location) == (303, f"/builds/{number}")
        assert [request.body for request in seen] == [{}]


async def test_only_a_form_may_carry_the_token_in_its_body(served: Served) -> None:
    served.secrets = Secrets(api_token=TOKEN)
    number = await served.add(1, BuildState.FAILED)
    path, token = f"/builds/{number}/retry", urlencode({"token": TOKEN})
    async with TestClient(TestServer(served.application())) as client:
        for headers in ({}, FORM, BROWSER, {**FORM, "Accept": "application/json"}):
            async with client.post(path, data=token, headers=headers) as response:
                assert response.status == 401
        bearer = {"Authorization": "Bearer no"}
        assert (await send(client, path, {"token": TOKEN}, **bearer))[0] == 401
        await error_of(client, "POST", f"{path}?token={TOKEN}", 401)
    assert await open_requests(served) == []


async def test_another_sites_form_is_refused_before_its_token_is_looked_at(
    served: Served,
) -> None:
    served.secrets = Secrets(api_token=TOKEN)
    number = await served.add(1, BuildState.FAILED)
    async with TestClient(TestServer(served.application())) as client:
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
        ):
            for token in (TOKEN, "wrong"):
                status, _, _ = await send(
                    client, f"/builds/{number}/retry", {"token": token}, **headers
                )
                assert status == 403
    assert await open_requests(served) == []
