"""`/builds` and `/commits/SHA` as pages: the form, the search, what comes after."""

from __future__ import annotations

from typing import Any

from ci.models import BuildState
from tests.serve.conftest import REPO, Private, Served, sha
from tests.serve.reading import BROWSER, HOSTILE, page

S = BuildState


async def json_of(client: Private, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def numbers(found: Any) -> list[int]:
    return [build["number"] for build in found["builds"]]


async def test_form_with_empty_fields_finds_everything(
    served: Served, client: Private
) -> None:
    all_of_them = [await served.add(n, S.SUCCEEDED) for n in (1, 2)]
    found = await json_of(client, "/builds?repo=&branch=&state=&q=")
    assert numbers(found) == all_of_them[::-1]
    assert found["searched_down_to"] is None


async def test_search_finds_titles_authors_and_shas(
    served: Served, client: Private
) -> None:
    web = await served.add(1, S.FAILED, title="Web: add 100%")
    other = await served.add(0xABC, S.SUCCEEDED, title="flake: bump")
    for words, expected in {
        "web": [web],
        "100%25": [web],
        "%25": [web],
        "_": [],
        "ADA": [other, web],
        sha(0xABC)[2:7]: [other],
        "nowhere": [],
    }.items():
        found = await json_of(client, f"/builds?q={words}")
        assert numbers(found) == expected, words
        assert found["searched_down_to"] == web
    assert numbers(await json_of(client, "/builds?q=ada&state=failed")) == [web]


async def test_page_links_lead_through_all_of_what_was_asked_for(
    served: Served, client: Private
) -> None:
    wanted = [await served.add(n, S.FAILED, title="a & b") for n in range(1, 6)]
    await served.add(9, S.SUCCEEDED, title="a & b")
    seen: list[str] = []
    path = "/builds?q=%26&state=failed&limit=2"
    read = await page(client, path)
    while True:
        shown = [tag for tag in read.all("a") if "data-open" in tag]
        twin = await json_of(client, path.replace("/builds?", "/builds.json?"))
        assert [tag["href"] for tag in shown] == [
            f"/builds/{number}" for number in numbers(twin)
        ]
        seen += [str(tag["href"]) for tag in shown]
        older = [tag for tag in read.all("a") if tag.get("rel") == "prev"]
        assert bool(older) == (twin["next"] is not None)
        if not older:
            break
        path = str(older[0]["href"])
        read = await page(client, path)
    assert seen == [f"/builds/{number}" for number in wanted[::-1]]
    selected = [tag for tag in read.all("option") if "selected" in tag]
    assert len(selected) == 1
    (field,) = [tag for tag in read.all("input") if tag.get("name") == "q"]
    assert field["value"] == "&"


async def test_text_says_how_to_go_on(served: Served, client: Private) -> None:
    for n in range(1, 4):
        await served.add(n, S.SUCCEEDED)
    async with client.get("/builds.txt?limit=2&q=commit") as response:
        lines = (await response.text()).splitlines()
    assert lines[-2:] == ["searched down to #2", "older: before=2"]


async def test_browser_goes_to_the_only_build_of_a_commit(
    served: Served, client: Private
) -> None:
    number = await served.add(1, S.SUCCEEDED)
    path = f"/commits/{sha(1)}"
    async with client.get(path, headers=BROWSER, allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"] == f"/builds/{number}"
    assert numbers(await json_of(client, path)) == [number]
    second = await served.add(1, S.FAILED, repo="owner/fork")
    read = await page(client, path)
    assert {f"/builds/{number}", f"/builds/{second}"} <= set(read.links)


async def test_hostile_words_do_no_harm(served: Served, client: Private) -> None:
    number = await served.add(1, S.FAILED, title=HOSTILE, branch=HOSTILE)
    read = await page(client, "/builds")
    assert f"/builds/{number}" in read.links
    await page(client, "/builds?branch=%22%3E%3Cscript%3E%0d&q=%22%3E%3Cscript%3E%00")
    assert REPO in [tag.get("title") for tag in read.all("a")]
