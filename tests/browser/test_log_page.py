"""The log's page, as a reader handles it: folds, links to lines, search, following."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.browser.chromium import tab
from tests.end_to_end.server import Server
from tests.fakes.showcase import BAD, EARLY, RUNNING
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOG = f"/builds/{BAD}/log"
LIVE = f"/builds/{RUNNING}/log"
SCRIPT = pytest.mark.parametrize("script", [True, False])
AT_END = (
    "scrollY + innerHeight >= document.documentElement.scrollHeight - 40"
    " && document.documentElement.scrollHeight > innerHeight"
)
# A window that the log does not fit into, and what its reader has before him: lines may
# come above that, and the browser then scrolls along.
LOW = {"width": 900, "height": 600}
SPOT = "window.spot = document.elementFromPoint(300, 75)"
TOP = "spot.getBoundingClientRect().top"
OPEN = "(it) => it.closest('details.group').open"


async def lines_of(house: Server, path: str = LOG) -> list[str]:
    return (await house.text(path)).decode().splitlines()


async def line_with(house: Server, text: str, path: str = LOG) -> int:
    """The number, from 1, of the first line with this text."""
    numbered = enumerate(await lines_of(house, path), 1)
    return next(number for number, line in numbered if text in line)


async def click_number(line: Locator, *, shift: bool = False) -> None:
    """Click where its number stands, left of the text."""
    modifiers = ["Shift"] if shift else []
    await line.click(position={"x": 10, "y": 8}, modifiers=modifiers)  # type: ignore[arg-type]


async def hash_of(page: Page) -> str:
    """As the page itself knows it; the debugger tells of it a little later."""
    found: str = await page.evaluate("location.hash.slice(1)")
    return found


async def lit(page: Page) -> list[str]:
    found: list[str] = await page.evaluate(
        "[...document.querySelectorAll('.log .lit')].map((it) => it.id)"
    )
    return found


@SCRIPT
async def test_only_what_failed_is_open(
    house: Server, browser: Browser, script: bool
) -> None:
    async with tab(browser, house.private, script=script) as watched:
        await watched.open(LOG)
        folds = watched.page.locator("details.group")
        opened = {
            await fold.get_attribute("data-group"): await fold.get_attribute("open")
            is not None
            for fold in await folds.all()
        }
        assert opened.pop("web-test-1")
        assert len(opened) >= 3
        assert not any(opened.values()), opened
        failed = watched.page.locator("details[data-group=web-test-1] > summary")
        await expect(failed).to_contain_text("✗ failed web-test-1 8 lines")
        line = watched.page.locator(f"#L{await line_with(house, 'AssertionError')}")
        await expect(line).to_be_visible()
        await failed.click()
        await expect(line).to_be_hidden()


@SCRIPT
async def test_link_to_a_line_opens_its_fold(
    house: Server, browser: Browser, script: bool
) -> None:
    number = await line_with(house, "putting the shop together")
    async with tab(browser, house.private, script=script) as watched:
        line = watched.page.locator(f"#L{number}")
        await watched.open(LOG)
        assert not await line.evaluate(OPEN)
        # Another document: what the browser does with a fragment that it comes with.
        await watched.open("/help")
        await watched.open(f"{LOG}#L{number}")
        await expect(line).to_be_in_viewport()
        assert await line.evaluate(OPEN)
        marked = await line.evaluate("(it) => getComputedStyle(it).backgroundColor")
        assert marked == "rgb(255, 243, 196)"


async def test_a_range_is_chosen_with_shift_and_can_be_sent(
    house: Server, browser: Browser
) -> None:
    first = await line_with(house, "web-test")
    ids = [f"L{first + number}" for number in range(4)]
    async with tab(browser, house.private) as watched:
        page = watched.page
        await watched.open(LOG)
        await click_number(page.locator(f"#{ids[0]}"))
        assert await hash_of(page) == ids[0]
        await click_number(page.locator(f"#{ids[3]}"), shift=True)
        assert await hash_of(page) == f"{ids[0]}-{ids[3]}"
        assert await lit(page) == ids
        assert await page.evaluate("getSelection().isCollapsed")
        # The end nearer to the start: the anchor stays.
        await click_number(page.locator(f"#{ids[1]}"), shift=True)
        assert await lit(page) == ids[:2]
        # And upwards, where the anchor is the range's end.
        await click_number(page.locator(f"#{ids[3]}"))
        for start in (ids[0], ids[2], ids[1]):
            await click_number(page.locator(f"#{start}"), shift=True)
            assert await hash_of(page) == f"{start}-{ids[3]}"
        # The text of a line can be marked without choosing it.
        await page.locator(f"#{ids[3]}").click(position={"x": 120, "y": 8})
        assert await hash_of(page) == f"{ids[1]}-{ids[3]}"
        await watched.open("/help")
        await watched.open(f"{LOG}#{ids[3]}-{ids[1]}")
        await expect(page.locator(f"#{ids[1]}")).to_be_in_viewport()
        assert await lit(page) == ids[1:]


async def test_a_range_in_a_closed_fold_opens_it(
    house: Server, browser: Browser
) -> None:
    number = await line_with(house, "unpacking sources of shop")
    async with tab(browser, house.private) as watched:
        await watched.open(f"{LOG}#L{number}-L{number + 1}")
        await expect(watched.page.locator(f"#L{number}")).to_be_in_viewport()
        assert await lit(watched.page) == [f"L{number}", f"L{number + 1}"]


@SCRIPT
async def test_search(house: Server, browser: Browser, script: bool) -> None:
    wanted = [
        number for number, line in enumerate(await lines_of(house), 1) if "500" in line
    ]
    async with tab(browser, house.private, script=script) as watched:
        page = watched.page
        await watched.open(LOG)
        await page.get_by_role("searchbox").fill("500")
        await page.get_by_role("button", name="Search").click()
        await page.wait_for_url("**?q=500")
        hits = page.locator(".hits a[data-open]")
        assert [int(text) for text in await hits.all_text_contents()] == wanted
        await expect(page.locator(".hits mark").first).to_have_text("500")
        await hits.first.click()
        await expect(page.locator(f"#L{wanted[0]}")).to_be_in_viewport()
        await page.get_by_role("searchbox").fill("no line says this")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**?q=no+line+says+this")
        await expect(page.locator("h2")).to_have_text(
            "0 lines have “no line says this”"
        )


@SCRIPT
async def test_wrapping_is_switched_without_a_script(
    house: Server, browser: Browser, script: bool
) -> None:
    number = await line_with(house, "AssertionError")
    async with tab(browser, house.private, script=script) as watched:
        await watched.open(LOG)
        line = watched.page.locator(f"#L{number}")
        switch = watched.page.get_by_label("Wrap long lines")
        await expect(switch).to_be_checked()
        await expect(line).to_have_css("white-space-collapse", "preserve")
        await expect(line).to_have_css("text-wrap-mode", "wrap")
        await switch.uncheck()
        await expect(line).to_have_css("text-wrap-mode", "nowrap")


async def test_raw_is_the_bytes(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private) as watched:
        await watched.open(LOG)
        link = watched.page.get_by_role("link", name="Raw")
        response = await watched.page.request.get(
            house.private + (await link.get_attribute("href") or "")
        )
        assert response.headers["content-type"].startswith("text/plain")
        assert await response.body() == await house.text(LOG)


@SCRIPT
async def test_a_target_has_the_numbers_of_the_whole(
    house: Server, browser: Browser, script: bool
) -> None:
    number = await line_with(house, "AssertionError")
    path = f"{LOG}?target=checks.web-test"
    async with tab(browser, house.private, script=script) as watched:
        await watched.open(LOG)
        said = await watched.page.locator(f"#L{number}").text_content()
        await watched.page.get_by_role("link", name="checks.web-test").click()
        await watched.page.wait_for_url(f"**{path}")
        line = watched.page.locator(f"#L{number}")
        assert await line.text_content() == said
        assert await watched.page.locator("details.group").count() == 0
        await expect(watched.page.locator("#L1")).to_have_count(0)
        await watched.open("/help")
        await watched.open(f"{path}#L{number}")
        await expect(line).to_be_in_viewport()


async def until(page: Page, condition: str) -> None:
    """Until the page says so; it is asked from here, for its policy lets nobody in."""

    async def holds() -> bool:
        return bool(await page.evaluate(condition))

    await wait_until(holds, what=condition)


async def last_line(page: Page) -> int:
    found: int = await page.evaluate(
        "Math.max(...[...document.querySelectorAll('.log [id^=L]')]"
        ".map((it) => Number(it.id.slice(1))))"
    )
    return found


async def more_lines(page: Page, than: int) -> None:
    """Until a later line has come."""
    await expect(page.locator(f"#L{than + 2}")).to_have_count(1)


async def test_the_end_is_followed_until_somebody_scrolls_up(
    house: Server, browser: Browser
) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        button = page.locator("#follow")
        await watched.open(LIVE)
        await until(page, AT_END)
        await more_lines(page, await last_line(page))
        await until(page, AT_END)
        await expect(button).to_be_hidden()

        await page.mouse.move(400, 150)
        await page.mouse.wheel(0, -200)
        await until(page, f"!({AT_END})")
        await page.evaluate(SPOT)
        before = await page.evaluate(TOP)
        await expect(button).to_have_text(re.compile("^↓ [1-9][0-9]* new lines$"))
        assert await page.evaluate(TOP) == before
        await page.keyboard.press("End")
        await until(page, AT_END)
        await expect(button).to_be_hidden()
        await more_lines(page, await last_line(page))
        await until(page, AT_END)

        await page.mouse.wheel(0, -200)
        await expect(button).to_be_visible()
        await button.click()
        await until(page, AT_END)
        await expect(button).to_be_hidden()


async def test_who_came_for_a_line_is_left_there(
    house: Server, browser: Browser
) -> None:
    number = await line_with(house, EARLY, LIVE)
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        await watched.open(f"{LIVE}#L{number}")
        line = page.locator(f"#L{number}")
        await expect(line).to_be_in_viewport()
        await more_lines(page, await last_line(page))
        await expect(page.locator("#follow")).to_be_visible()
        await expect(line).to_be_in_viewport()


async def test_marking_text_stops_it(house: Server, browser: Browser) -> None:
    async with tab(browser, house.private, size=LOW) as watched:
        page = watched.page
        await watched.open(LIVE)
        await more_lines(page, await last_line(page))
        await until(page, AT_END)
        await page.evaluate(SPOT)
        await page.evaluate("getSelection().selectAllChildren(spot)")
        # The page hears of the marking a moment later; by then a line may have come.
        await expect(page.locator("#follow")).to_be_visible()
        before = await page.evaluate(TOP)
        await more_lines(page, await last_line(page))
        assert await page.evaluate(TOP) == before
