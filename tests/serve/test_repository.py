"""`/repos/O/N` with its badge: names with dots, twins, what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.config import parse
from ci.models import BuildState
from ci.serve.pages import badge
from tests.serve.conftest import REPO, Private, Served, document, error_of
from tests.serve.reading import HOSTILE, page

S = BuildState
SVG = "{http://www.w3.org/2000/svg}"
HERE = f"/repos/{REPO}"


async def json_of(client: Private, path: str, **headers: str) -> Any:
    async with client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/json"
        return await response.json()


async def test_page_json_and_text_tell_the_same(
    served: Served, client: Private
) -> None:
    good = await served.add(1, S.SUCCEEDED)
    broken = await served.add(2, S.FAILED)
    other = await served.add(3, S.SUCCEEDED, branch="main")
    await served.add(4, S.FAILED, repo="owner/else")
    told = await json_of(client, f"{HERE}.json")
    assert told == await json_of(client, HERE)
    assert [build["number"] for build in told["builds"]] == [broken, good]
    assert [branch["branch"] for branch in told["branches"]] == ["dev", "main"]
    dev = told["branches"][0]
    assert (dev["broken_since"], dev["last_good"]) == (broken, good)
    sentence = f"broken since #{broken} ({dev['broken_sha'][:7]}), last good #{good}"
    read = await page(client, HERE)
    assert sentence in read.words
    assert read.title.startswith(f"✗ {REPO} dev")
    assert f"{HERE}/badge.svg?branch=dev" in [img["src"] for img in read.all("img")]
    assert f"{HERE}/feed.atom" in read.links
    async with client.get(f"{HERE}.txt") as response:
        text = await response.text()
    assert sentence in text
    assert f"✓ #{other} main" in text
    main = await json_of(client, f"{HERE}?branch=main")
    assert [build["number"] for build in main["builds"]] == [other]


async def test_names_with_dots_have_their_own_pages(
    served: Served, tmp_path: Path
) -> None:
    names = ["o/web.site", "o/x", "o/x.json", "o/y.txt", "o/badge.svg"]
    served.settings = parse(
        document(tmp_path, repository=[{"name": name} for name in names])
    )
    async with TestClient(TestServer(served.application())) as client:
        for path, name in {
            "o/web.site": "o/web.site",
            "o/web.site.json": "o/web.site",
            "O/Web.Site.json": "o/web.site",
            "o/x": "o/x",
            "o/x.json": "o/x",
            "o/x.json.json": "o/x.json",
            "o/y.txt": "o/y.txt",
            "o/y.txt.json": "o/y.txt",
            "o/badge.svg": "o/badge.svg",
        }.items():
            told = await json_of(client, f"/repos/{path}", Accept="application/json")
            assert told["repo"] == name, path
        assert "o/y.txt" in (await page(client, "/repos/o/y.txt")).words
        async with client.get("/repos/o/web.site.txt") as response:
            assert response.content_type == "text/plain"
        async with client.get("/repos/o/web.site/badge.svg") as response:
            assert response.status == 200
        async with client.get("/repos/o/x.json/badge.json") as response:
            assert (await response.json())["message"] == "no build"


async def test_what_is_not_configured_is_there_while_it_has_builds(
    served: Served, client: Private
) -> None:
    for path in ("", ".json", "/badge.svg", "/badge.json", "/feed.atom"):
        body = await error_of(client, "GET", f"/repos/owner/gone{path}", 404)
        assert REPO in body["error"]
    number = await served.add(1, S.SUCCEEDED, repo="owner/gone", branch="old")
    told = await json_of(client, "/repos/owner/gone")
    assert told["url"] is None
    assert told["branch"] == "old"
    assert [build["number"] for build in told["builds"]] == [number]
    assert "no longer configured" in (await page(client, "/repos/owner/gone")).words


async def _badge(client: Private, query: str = "") -> tuple[ET.Element, Any]:
    """The picture and the JSON, which must say the same."""
    async with client.get(f"{HERE}/badge.svg{query}") as response:
        assert response.content_type == "image/svg+xml"
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; base-uri 'none'"
        )
        drawn = ET.fromstring(await response.text())  # noqa: S314 — our own
    told = await json_of(client, f"{HERE}/badge.json{query}")
    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert words == [told["label"], told["message"]]
    title = drawn.find(f"{SVG}title")
    assert title is not None
    assert title.text == f"{told['label']}: {told['message']}"
    assert told["schemaVersion"] == 1
    (path,) = drawn.iter(f"{SVG}path")
    assert path.get("fill") == told["color"]
    return drawn, told


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (S.SUCCEEDED, "passing · 16m 40s"),
        (S.FAILED, "failing · 16m 40s"),
        (S.ERROR, "error · 16m 40s"),
        (S.CANCELLED, "cancelled · 16m 40s"),
        (S.RUNNING, "no build"),
    ],
)
async def test_badge_tells_the_newest_finished_build(
    served: Served, client: Private, state: BuildState, message: str
) -> None:
    await served.add(1, state)
    assert (await _badge(client))[1]["message"] == message
    assert (await _badge(client, "?branch=dev"))[1]["label"] == "dev"
    other = (await _badge(client, "?branch=main"))[1]
    assert (other["label"], other["message"]) == ("main", "no build")


async def test_badge_is_sent_again_only_when_it_has_changed(
    served: Served, client: Private
) -> None:
    for kind in ("badge.svg", "badge.json", "feed.atom"):
        async with client.get(f"{HERE}/{kind}") as response:
            tag = response.headers["ETag"]
        held = {"If-None-Match": f'W/"other", {tag}'}
        async with client.get(f"{HERE}/{kind}", headers=held) as response:
            assert response.status == 304
            assert await response.read() == b""
        await served.add(len(kind), S.SUCCEEDED)
        async with client.get(f"{HERE}/{kind}", headers=held) as response:
            assert response.status == 200
        await served.database.write(
            lambda connection: (
                connection.execute(
                    "UPDATE builds SET state = 'queued', finished_at = NULL"
                ).rowcount
            )
        )


async def test_hostile_branch_does_no_harm(served: Served, tmp_path: Path) -> None:
    branch = "a\"b<i>&'\u202e\ufffe"
    served.settings = parse(
        document(tmp_path, repository=[{"name": REPO, "branches": [branch]}])
    )
    await served.add(1, S.FAILED, branch=branch, title=HOSTILE)
    async with TestClient(TestServer(served.application())) as client:
        drawn, told = await _badge(client)
        assert told["label"] == "a\"b<i>&'\\u202e\\ufffe"
        assert {each.tag for each in drawn.iter()} <= {
            f"{SVG}{name}" for name in ("svg", "title", "rect", "path", "g", "text")
        }
        assert "<script>alert(1)</script>" in (await page(client, HERE)).words
        for number in (2, 3):
            await served.add(number, S.FAILED, branch=HOSTILE, title=HOSTILE)
        await page(client, f"{HERE}?branch=%3Cscript%3E%1b%00%ef%bf%be")
        await _badge(client, "?branch=%3Cscript%3E%1b%00%ef%bf%be")


def test_long_branch_is_cut() -> None:
    told = badge.of_branch("x" * 300, None)
    assert len(told.label) == badge.LONGEST
    assert told.label in badge.drawn(told)
