"""The keyboard: every key of /help, the ring around what has the focus, no trap."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.chromium import tab
from tests.end_to_end.server import Server
from tests.fakes.showcase import BAD, EVALUATION, RUNNING
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOW = {"width": 900, "height": 300}
FOCUS = """(() => { const it = document.activeElement;
    return it.id ? "#" + it.id : it.getAttribute("href") ?? it.localName; })()"""
RING = """(() => { const it = getComputedStyle(document.activeElement);
    return it.outlineStyle !== "none" && parseFloat(it.outlineWidth) >= 2; })()"""
# Each that Tab comes to: a number when it is met for the first time, -1 when again.
MET = """(() => { window.met ??= new Map(); const it = document.activeElement;
    if (it === document.body) return null;
    if (met.has(it)) return -1;
    met.set(it, met.size);
    const style = getComputedStyle(it);
    const ring = style.outlineStyle !== "none" || it.matches(":not(:focus-visible)");
    return ring ? met.size : it.outerHTML.slice(0, 100); })()"""


async def focus(page: Page) -> str:
    found: str = await page.evaluate(FOCUS)
    return found


async def press(page: Page, keys: str) -> None:
    for key in keys.split():
        await page.keyboard.press(key)


async def until(page: Page, condition: str) -> None:
    """Until the page says so; it is asked from here, for its policy lets nobody in."""

    async def holds() -> bool:
        return bool(await page.evaluate(condition))

    await wait_until(holds, what=condition)


async def test_rows(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private) as watched:
        page = watched.page
        await watched.open("/builds")
        newest = RUNNING + 1
        for keys, number in (("j", newest), ("j j", newest - 2), ("k", newest - 1)):
            await press(page, keys)
            assert await focus(page) == f"/builds/{number}"
            assert await page.evaluate(RING)
        # Past the ends nothing happens.
        await press(page, "k k k k")
        assert await focus(page) == f"/builds/{newest}"
        await press(page, "j j j Enter")
        await page.wait_for_url(f"**/builds/{newest - 3}")


async def test_neighbours_and_errors_of_a_build(
    house: Server, browser: Browser
) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        await watched.open(f"/builds/{BAD}")
        await press(page, "h")
        await page.wait_for_url(f"**/builds/{BAD - 1}")
        await press(page, "l")
        await page.wait_for_url(f"**/builds/{BAD}")

        await watched.open(f"/builds/{EVALUATION}")
        for keys, error in (("n", 1), ("n", 2), ("n", 2), ("p", 1), ("p", 1)):
            await press(page, keys)
            assert await focus(page) == f"#error-{error}"
            assert await page.evaluate(RING)
            await expect(page.locator(f"#error-{error} h2")).to_be_in_viewport()


async def test_errors_of_a_log(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        await watched.open(f"/builds/{BAD}/log")
        await press(watched.page, "n")
        failed = watched.page.locator("details[data-group=web-test-1] > summary")
        await expect(failed).to_be_focused()
        await expect(failed).to_be_in_viewport()


async def test_top_and_end(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        await watched.open("/help")
        await press(page, "G")
        await until(
            page,
            "scrollY > 300 && "
            "scrollY + innerHeight >= document.documentElement.scrollHeight - 1",
        )
        await press(page, "g")
        await press(page, "x")
        await press(page, "g")
        assert await page.evaluate("scrollY") > 300, "g is one half only"
        await press(page, "g")
        await until(page, "scrollY === 0")


async def test_search_help_and_fields(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private) as watched:
        page = watched.page
        await watched.open("/builds")
        await press(page, "/")
        search = page.get_by_role("searchbox")
        await expect(search).to_be_focused()
        await expect(search).to_have_attribute("aria-keyshortcuts", "/")
        await page.keyboard.type("jkhlG?/R")
        await expect(search).to_have_value("jkhlG?/R")
        await expect(search).to_be_focused()
        assert page.url.endswith("/builds")
        await page.get_by_label("State").focus()
        await press(page, "j")
        await expect(page.get_by_label("State")).to_be_focused()
        await page.get_by_label("State").blur()
        # With a modifier a key is the browser's.
        await press(page, "Control+j Alt+j Meta+j")
        assert await focus(page) == "body"
        await press(page, "?")
        await page.wait_for_url("**/help")
        await watched.open(f"/builds/{BAD}/log")
        await press(page, "/")
        await expect(page.get_by_role("searchbox")).to_be_focused()


async def test_they_can_be_switched_off(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private) as watched:
        page = watched.page
        switch = page.get_by_label("Leave my keys alone")
        for off in (True, False):
            await watched.open("/help")
            await switch.set_checked(off)
            await page.reload()
            await expect(switch).to_be_checked(checked=off)
            await watched.open("/builds")
            await press(page, "j")
            row = f"/builds/{RUNNING + 1}"
            assert await focus(page) == ("body" if off else row)


async def test_following_is_switched(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        button = page.locator("#follow")
        await watched.open(f"/builds/{RUNNING}/log")
        await until(page, "scrollY > 0")
        await press(page, "f")
        await expect(button).to_be_visible()
        before = await page.evaluate("scrollY")
        await press(page, "f")
        await expect(button).to_be_hidden()
        await until(page, f"scrollY > {before}")


async def test_retry(small: Server, browser: Browser) -> None:
    async with tab(browser, small.private) as watched:
        page = watched.page
        await watched.open("/builds/2")
        button = page.locator("[data-retry]")
        await expect(button).to_have_attribute("aria-keyshortcuts", "Shift+R")
        await press(page, "r")
        await press(page, "Shift+R")
        await expect(page.locator(".build-origin")).to_contain_text("attempt 2")
        assert page.url.endswith("/builds/2")


async def test_the_content_is_one_key_away(house: Server, browser: Browser) -> None:
    for script in (True, False):
        async with tab(browser, house.private, script=script) as watched:
            page = watched.page
            await watched.open("/builds")
            skip = page.get_by_role("link", name="Skip to the content")
            await expect(skip).not_to_be_in_viewport()
            await press(page, "Tab")
            await expect(skip).to_be_focused()
            await expect(skip).to_be_in_viewport(ratio=1)
            await press(page, "Enter Tab")
            assert await page.evaluate(
                "document.querySelector('main').contains(document.activeElement)"
            )


@pytest.mark.parametrize(
    "path", ["/", f"/builds/{BAD}", f"/builds/{BAD}/log", "/setup", "/stats"]
)
async def test_tab_comes_everywhere_and_out_again(
    house: Server, browser: Browser, path: str
) -> None:
    async with tab(browser, house.private) as watched:
        page = watched.page
        await watched.open(path)
        reached = 0
        for _ in range(300):
            await press(page, "Tab")
            met = await page.evaluate(MET)
            if met in (None, -1):
                break
            assert isinstance(met, int), f"no ring: {met}"
            reached = met
        else:
            pytest.fail("there is no end to it")
        wanted = await page.evaluate(
            """[...document.querySelectorAll("a[href], button, input, select, summary")]
            .filter((it) => it.checkVisibility() && it.type !== "hidden").length"""
        )
        assert reached >= wanted
        before = await focus(page)
        await press(page, "Shift+Tab")
        assert await focus(page) != before or before == "body"
