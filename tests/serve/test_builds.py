"""`/builds`, `/builds/N`, `/commits/SHA`: shapes, paging, twins, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from ci.models import BuildState, Target
from tests.serve.conftest import REPO, Private, Served, error_of, sha

OUTPUT = {"out": "/nix/store/00000000000000000000000000000000-hello"}
GOOD = Target("packages.default", BuildState.SUCCEEDED, 8.25, None, OUTPUT)
BAD = Target("checks.web-test", BuildState.FAILED, 100.0, "expected 200, got 500")


async def get(client: Private, path: str, **headers: str) -> Any:
    async with client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def test_build_has_every_key_of_the_contract(
    served: Served, client: Private
) -> None:
    number = await served.add(
        1, BuildState.FAILED, targets=(BAD, GOOD), title="web: add", summary="1 failed"
    )
    known = {
        "number": number,
        "repo": REPO,
        "branch": "dev",
        "sha": sha(1),
        "title": "web: add",
        "author": "Ada",
        "state": "failed",
        "cause": "push",
        "attempt": 1,
        "queued_at": "1970-01-01T00:16:40.001Z",
        "started_at": "1970-01-01T00:33:20.000Z",
        "finished_at": "1970-01-01T00:50:00.000Z",
        "seconds": 1000.0,
        "summary": "1 failed",
        "url": f"http://build-server:8000/builds/{number}",
        "pinned": False,
        "targets": [
            {
                "name": "checks.web-test",
                "state": "failed",
                "seconds": 100.0,
                "error": "expected 200, got 500",
                "outputs": {},
            },
            {
                "name": "packages.default",
                "state": "succeeded",
                "seconds": 8.25,
                "error": None,
                "outputs": OUTPUT,
            },
        ],
    }
    shown = await get(client, f"/builds/{number}")
    assert shown | known == shown
    assert (await get(client, "/builds"))["builds"] == [known]


async def test_waiting_build_says_null_where_nothing_is_known_yet(
    served: Served, client: Private
) -> None:
    number = await served.add(1, branch=None)
    build = await get(client, f"/builds/{number}.json")
    unknown = {"branch", "started_at", "finished_at", "seconds"}
    plain = (await get(client, "/builds"))["builds"][0]
    assert {key for key, value in plain.items() if value is None} == unknown
    assert build | plain == build
    assert (build["attempt"], build["targets"]) == (0, [])


async def test_pages_follow_each_other_without_gap_or_repeat(
    served: Served, client: Private
) -> None:
    numbers = [await served.add(n, BuildState.SUCCEEDED) for n in range(1, 8)]
    seen: list[int] = []
    path = "/builds?limit=3"
    while True:
        page = await get(client, path)
        seen += [build["number"] for build in page["builds"]]
        if page["next"] is None:
            break
        path = f"/builds?limit=3&before={page['next']}"
    assert seen == sorted(numbers, reverse=True)


async def test_filters_select_by_repository_branch_and_state(
    served: Served, client: Private
) -> None:
    failed = await served.add(1, BuildState.FAILED)
    good = await served.add(2, BuildState.SUCCEEDED, branch="main")
    other = await served.add(3, BuildState.FAILED, repo="owner/other")

    async def found(query: str) -> list[int]:
        page = await get(client, f"/builds?{query}")
        return [build["number"] for build in page["builds"]]

    assert await found("state=failed") == [other, failed]
    assert await found(f"repo={REPO}&branch=main") == [good]
    assert await found(f"repo={REPO}&state=failed") == [failed]
    assert await found("repo=owner/other") == [other]
    assert await found(f"repo={REPO}&state=running") == []


async def test_commit_is_found_by_its_beginning(
    served: Served, client: Private
) -> None:
    number = await served.add(0xABC, BuildState.SUCCEEDED)
    for prefix in (sha(0xABC), sha(0xABC)[:7].upper()):
        answer = await get(client, f"/commits/{prefix}")
        assert answer["sha"] == prefix.lower()
        assert [build["number"] for build in answer["builds"]] == [number]


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [
        ("/builds/1", None, "application/json"),
        ("/builds/1", "*/*", "application/json"),
        ("/builds/1", "text/html,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("/builds/1", "text/plain", "text/plain"),
        ("/builds/1", "text/plain;q=0.5, application/json", "application/json"),
        ("/builds/1", "application/json;q=0, text/*", "text/plain"),
        ("/builds/1.txt", "application/json", "text/plain"),
        ("/builds/1.json", "text/plain", "application/json"),
        ("/builds.txt", None, "text/plain"),
        ("/commits/0000001.txt", None, "text/plain"),
        ("/", "*/*", "text/plain"),
        ("/", "application/json", "application/json"),
        ("/index.json", "text/plain", "application/json"),
        ("/build/status", "*/*", "application/json"),
        ("/build/status", "text/plain", "text/plain"),
        ("/health", "*/*", "application/json"),
    ],
)
async def test_suffix_then_accept_decide_the_form(
    served: Served, client: Private, path: str, accept: str | None, kind: str
) -> None:
    await served.add(1, BuildState.FAILED, targets=(BAD,))
    headers = {} if accept is None else {"Accept": accept}
    skip = ["Accept"] if accept is None else []
    async with client.get(path, headers=headers, skip_auto_headers=skip) as response:
        assert response.status == 200
        assert response.content_type == kind
        assert response.charset == "utf-8"
        assert await response.text()


async def test_text_of_a_build_leads_with_the_verdict_and_the_first_error(
    served: Served, client: Private
) -> None:
    number = await served.add(1, BuildState.FAILED, targets=(GOOD, BAD))
    async with client.get(f"/builds/{number}.txt") as response:
        lines = (await response.text()).splitlines()
    assert lines[0].startswith(f'✗ #{number} dev 0000001 "commit 1"  failed 16m 40s')
    assert lines.index("  ✗ checks.web-test  1m 40s") < lines.index(
        "  ✓ packages.default  8s"
    )
    assert "      expected 200, got 500" in lines


async def test_titles_cannot_drive_the_terminal(
    served: Served, client: Private
) -> None:
    await served.add(1, title="\x1b[2J\x9b\u202eevil\r\n✓ #2 forged")
    for path in ("/", "/builds.txt", "/builds/1.txt", "/commits/0000001.txt"):
        async with client.get(path) as response:
            text = await response.text()
        assert "evil" in text
        assert all(char.isprintable() or char == "\n" for char in text)
        assert not [line for line in text.splitlines() if line.startswith("✓ #2")]


@pytest.mark.parametrize(
    ("path", "status", "names"),
    [
        ("/builds/2", 404, "no build 2"),
        ("/builds/0", 404, "no build 0"),
        ("/builds/-1.json", 404, "no build -1"),
        ("/builds/abc", 404, "no build abc"),
        ("/builds/" + "9" * 400, 404, "no build 999"),
        ("/builds/2/log", 404, "no build 2"),
        ("/build/logs?build=2", 404, "no build 2"),
        ("/commits/0000002", 404, "0000002"),
        ("/commits/abc", 400, "first 7 or more digits"),
        ("/commits/zzzzzzzz", 400, "first 7 or more digits"),
        ("/builds?state=broken", 400, "succeeded"),
        ("/builds?limit=0", 400, "1 to 100"),
        ("/builds?limit=101", 400, "1 to 100"),
        ("/builds?before=0", 400, "before"),
        ("/builds?before=1e3", 400, "before"),
        ("/builds?limt=3", 400, "no query parameter limt; known: repo, branch"),
        ("/builds?limit=3&limit=4", 400, "twice"),
        ("/builds?repo=owner/typo", 404, "configured: owner/name"),
        ("/build/status?repo=owner/typo", 404, "configured: owner/name"),
        ("/build/logs?lines=-1", 400, "1 to 10000"),
        ("/build/logs?lines=abc", 400, "1 to 10000"),
        ("/build/logs?lines=10001", 400, "1 to 10000"),
        ("/build/logs?follow=maybe", 400, "1 to stream"),
        ("/health?verbose=1", 400, "verbose"),
        ("/nothing", 404, "/openapi.json"),
        ("/builds/1/", 404, "/openapi.json"),
    ],
)
async def test_what_cannot_be_is_refused_in_one_shape(
    served: Served, client: Private, path: str, status: int, names: str
) -> None:
    await served.add(1, BuildState.SUCCEEDED, log=b"")
    body = await error_of(client, "GET", path, status)
    assert names in body["error"]
