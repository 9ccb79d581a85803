"""Every page in a real browser: with and without scripts, light, dark, on a phone."""

from __future__ import annotations

import json
import re

import pytest
from playwright.async_api import Browser, expect

from ci.serve.html import CSP
from tests.browser.chromium import PHONE, Watched, lines, tab
from tests.browser.conftest import commit
from tests.end_to_end.server import Server
from tests.fakes.showcase import BAD, EVALUATION, GOOD, REPO, RUNNING

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = (
    "/",
    "/builds",
    "/builds?state=failed&limit=2",
    f"/builds/{GOOD}",
    f"/builds/{BAD}",
    f"/builds/{EVALUATION}",
    f"/builds/{RUNNING}",
    f"/builds/{RUNNING + 1}",
    f"/builds/{GOOD}/log",
    f"/builds/{BAD}/log",
    f"/builds/{BAD}/log?target=checks.web-test",
    f"/builds/{BAD}/log?q=500",
    f"/builds/{RUNNING}/log",
    f"/builds/{GOOD}/timeline",
    f"/builds/{RUNNING}/timeline",
    f"/repos/{REPO}",
    "/stats",
    "/setup",
    "/help",
)
WAYS = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"size": PHONE},
    "no script": {"script": False},
}


async def settled(watched: Watched, path: str) -> None:
    """The page and, where there is a script, its stream of news."""
    await watched.open(path)
    assert await watched.page.locator("main h1").count() == 1, path


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", WAYS)
async def test_every_page(house: Server, browser: Browser, way: str) -> None:
    commit = await house.build(BAD)
    found: list[str] = []
    async with tab(browser, house.private, **WAYS[way]) as watched:  # type: ignore[arg-type]
        for path in (*PAGES, f"/commits/{commit['sha']}"):
            await settled(watched, path)
            title = await watched.page.title()
            assert title.endswith("build-server"), (path, title)
            if (wider := await watched.overflow()) > 0:
                found.append(f"{path}: {wider} px too wide")
            # In the dark only the colours are others.
            rules = {"light": (), "dark": ("color-contrast",)}.get(way)
            if rules is not None:
                found += [f"{path}: {each}" for each in await watched.findings(*rules)]
    assert not found, lines(found)


@pytest.mark.timeout(120)
async def test_every_page_keeps_to_the_policy_and_has_its_twins(house: Server) -> None:
    for path in PAGES:
        async with house.session.get(
            house.private + path, headers={"Accept": "text/html"}
        ) as response:
            body = await response.text()
            assert response.status == 200, (path, body)
            assert response.headers["Content-Security-Policy"] == CSP
            assert response.headers["Vary"] == "Accept", path
        assert not re.search(r"<[^>]*\s(style|on\w+)=", body), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", body), path
        for suffix, kind in ((".json", "application/json"), (".txt", "text/plain")):
            plain, _, query = path.partition("?")
            twin = f"{'/index' if plain == '/' else plain}{suffix}?{query}"
            async with house.session.get(house.private + twin) as response:
                text = await response.text()
                assert response.status == 200, (twin, text)
                assert response.content_type == kind, twin
            if suffix == ".json":
                told = json.loads(text)
                quoted = {
                    line.strip()
                    for error in told.get("errors", ())
                    for line in error["lines"]
                }
            elif "/log" not in path:
                # One word to be copied, a path say, is not broken; nor what is quoted.
                wide = [
                    line
                    for line in text.splitlines()
                    if len(line) > 80
                    and max(map(len, line.split())) < 30
                    and line.strip() not in quoted
                ]
                assert not wide, (twin, wide)


async def test_a_page_shows_what_happens_without_being_loaded_again(
    small: Server, browser: Browser
) -> None:
    await commit(small, {"slow": "", "broken": None})
    await small.until_state(3, "running")
    await commit(small, {"slow": ""})
    async with tab(browser, small.private) as watched:
        page = watched.page
        await watched.open("/builds/3")
        await page.evaluate("window.loadedOnce = true")
        icon = await page.get_attribute("link[rel=icon]", "href")
        assert (await page.title()).startswith("●")
        status, _ = await small.post("/builds/3/cancel")
        assert status == 202
        await expect(page).to_have_title(re.compile("^⊘"))
        assert await page.get_attribute("link[rel=icon]", "href") != icon
        assert await page.evaluate("window.loadedOnce")
        await watched.open("/")
        await expect(page.locator("main")).to_contain_text("#4")
