"""On paper: all that can be unfolded, nothing that can only be clicked, light colours."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page

from tests.browser.chromium import tab
from tests.end_to_end.server import Server
from tests.fakes.showcase import BAD, EVALUATION, GOOD, REPO

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = (
    "/",
    "/builds",
    f"/builds/{BAD}",
    f"/builds/{EVALUATION}",
    f"/builds/{BAD}/log",
    f"/builds/{GOOD}/timeline",
    f"/repos/{REPO}",
    "/stats",
    "/setup",
)
CONTROLS = (
    "header",
    "form",
    "input:not([type=hidden])",
    "select",
    "button",
    ".skip",
    "nav[aria-label^=Builds]",
)
# What is folded away, in folds that are there.
HIDDEN = """() => [...document.querySelectorAll("main details > :not(summary)")]
    .filter((it) => it.closest("details").checkVisibility() && !it.checkVisibility())
    .map((it) => it.outerHTML.slice(0, 100))"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
# The darkest is 0; what is read on paper is at most as light as a middle grey.
LIGHTEST = """() => Math.max(...[...document.querySelectorAll("main *")]
    .filter((it) => it.checkVisibility() && it.children.length === 0 && it.textContent)
    .map((it) => getComputedStyle(it).color.match(/[0-9.]+/g).map(Number))
    .map(([r, g, b]) => (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255))"""


async def seen(page: Page, selectors: tuple[str, ...]) -> list[str]:
    """Which of them a reader sees."""
    return [
        selector
        for selector in selectors
        for each in await page.locator(selector).all()
        if await each.is_visible()
    ]


@pytest.mark.parametrize("script", [True, False])
async def test_a_page_on_paper(house: Server, browser: Browser, script: bool) -> None:
    async with tab(browser, house.private, dark=True, script=script) as watched:
        page = watched.page
        folded = 0
        for path in PAGES:
            await page.emulate_media(media="screen", color_scheme="dark")
            await watched.open(path)
            assert await seen(page, ("header",)), path
            folded += len(await page.evaluate(HIDDEN))
            await page.emulate_media(media="print", color_scheme="dark")
            assert await seen(page, CONTROLS) == [], path
            assert await page.evaluate(HIDDEN) == [], path
            assert await page.evaluate(BACKGROUND) == "rgb(255, 255, 255)", path
            if "timeline" not in path:
                assert await page.evaluate(LIGHTEST) < 0.6, path
        assert folded > 5, "there was something to unfold"


async def test_every_line_of_a_log_is_on_paper(house: Server, browser: Browser) -> None:
    whole = (await house.text(f"/builds/{BAD}/log")).decode().splitlines()
    async with tab(browser, house.private) as watched:
        await watched.open(f"/builds/{BAD}/log")
        await watched.page.emulate_media(media="print")
        for number in range(1, len(whole) + 1):
            assert await watched.page.locator(f"#L{number}").is_visible(), number
