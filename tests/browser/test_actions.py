"""What the pages' buttons do: without a script, and with a token where one is asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, expect

from tests.browser.chromium import Watched, tab
from tests.browser.conftest import TOKEN, commit
from tests.end_to_end.server import FINAL, Server
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def press(watched: Watched, name: str) -> str:
    """Click the button; returns the path of the page that comes, and has come."""
    page = watched.page
    async with (
        # It may be the page that is there already, and anew.
        page.expect_event("domcontentloaded"),
        page.expect_response(
            lambda response: response.request.method == "POST"
        ) as sent,
    ):
        await page.get_by_role("button", name=name, exact=True).click()
    response = await sent.value
    assert response.status == 303
    location = response.headers["location"]
    assert urlsplit(page.url).path == location
    return location


async def ended(server: Server, number: int, attempt: int) -> dict[str, Any]:
    """The build, when this attempt of it is over."""

    async def over() -> bool:
        build = await server.build(number)
        return build["attempt"] == attempt and build["state"] in FINAL

    await wait_until(over, 60, what=f"attempt {attempt} of build {number}")
    return await server.build(number)


async def test_everything_can_be_done_without_a_script(
    small: Server, browser: Browser
) -> None:
    await commit(small, {"slow": "", "broken": None})
    # Of two that wait the newer one is begun first.
    await small.until_state(3, "running")
    await commit(small, {"slow": ""})
    async with tab(browser, small.private, script=False) as watched:
        page = watched.page
        for number in (4, 3):
            await watched.open(f"/builds/{number}")
            assert await press(watched, "Cancel") == f"/builds/{number}"
            build = await small.finished(number)
            assert build["state"] == "cancelled"
            assert "cancelled by 127.0.0.1" in build["summary"]
            await watched.open(f"/builds/{number}")
            await expect(page.locator("h1")).to_contain_text("cancelled")
            await expect(page.get_by_role("button")).to_have_text("Retry")

        await watched.open("/builds/2")
        assert await press(watched, "Retry") == "/builds/2"
        build = await ended(small, 2, 2)
        assert build["state"] == "failed"

        await watched.open("/")
        await page.get_by_role("textbox", name="commit").fill(
            (await small.build(1))["sha"][:10]
        )
        await page.get_by_label("even if it is built already").check()
        # Where the commit was not looked up within three seconds, to what can be seen.
        assert await press(watched, "Build") in ("/builds/1", "/")
        build = await ended(small, 1, 2)
        assert build["state"] == "succeeded"

        await watched.open("/builds/1")
        for button, pinned in (("Pin", True), ("Unpin", False)):
            assert await press(watched, button) == "/builds/1"
            assert (await small.build(1))["pinned"] is pinned
            text = await page.locator(".build-origin").inner_text()
            assert ("· pinned" in text) is pinned


@pytest.mark.parametrize("script", [True, False])
async def test_nothing_is_done_without_the_token(
    guarded: Server, browser: Browser, script: bool
) -> None:
    async with tab(browser, guarded.private, script=script) as watched:
        page = watched.page
        await watched.open("/builds/2")
        token = page.get_by_label("Token")
        await expect(token).to_have_attribute("type", "password")
        # The browser itself asks for what is missing.
        await page.get_by_role("button", name="Retry").click()
        await expect(token).to_be_focused()
        await token.fill("not-the-token-of-this-server")
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator("h1")).to_have_text("401")
        await expect(page.locator("main")).to_contain_text("go back and")
        assert any(fault.startswith("401 for ") for fault in watched.faults)
        watched.excuse("401")
        assert (await guarded.build(2))["attempt"] == 1

        await page.go_back()
        await token.fill(TOKEN)
        assert await press(watched, "Retry") == "/builds/2"
        assert (await ended(guarded, 2, 2))["state"] == "failed"
        assert TOKEN not in page.url
        await watched.open("/")
        await page.get_by_label("Token").fill(TOKEN)
        await page.get_by_label("even if").check()
        await press(watched, "Build")
