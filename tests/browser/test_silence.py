"""Open pages whose server falls silent, and whose questions are lost on the way."""

from __future__ import annotations

import asyncio
import signal

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.browser.chromium import Watched, tab
from tests.browser.conftest import commit
from tests.end_to_end.server import Server
from tests.fakes.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW = 30_000
LIVE = "#live"
# The page's stream, and what it brought.
STREAM = """
const Source = EventSource;
window.told = [];
window.EventSource = class extends Source {
  constructor(url) {
    super(url);
    window.stream = this;
    for (const name of ["hello", "end"]) this.addEventListener(name, () => told.push(name));
  }
};
"""
# As while derivations are built.
PROGRESS = """(number) => stream.dispatchEvent(new MessageEvent("build", {
  data: JSON.stringify({number, state: "running", kind: "progress"}),
}))"""


async def _running(server: Server) -> int:
    await commit(server, {"slow": "", "broken": None})
    await server.until_state(3, "running")
    return 3


async def _opened(watched: Watched, path: str) -> None:
    """The page, with its stream: it has come when the page is asked for anew."""
    async with watched.page.expect_response("**/events**"):
        await watched.open(path)


async def _until(page: Page, condition: str) -> None:
    """Until the page says so."""

    async def holds() -> bool:
        return bool(await page.evaluate(condition))

    await wait_until(holds, what=condition)


async def test_a_page_says_that_its_server_has_fallen_silent(
    small: Server, browser: Browser
) -> None:
    number = await _running(small)
    async with tab(browser, small.private) as watched:
        page = watched.page
        await page.clock.install()
        await _opened(watched, f"/builds/{number}")
        # A machine that sleeps closes no connection.
        small.send_signal(signal.SIGSTOP)
        try:
            await page.clock.run_for(45_000)
            await expect(page.locator(LIVE)).to_have_text("not live, retrying…")
        finally:
            small.send_signal(signal.SIGCONT)
        await expect(page.locator(LIVE)).to_have_text("", timeout=SLOW)
        await small.post(f"/builds/{number}/cancel")
        await small.finished(number)
        await page.clock.resume()
        await expect(page.locator("h1")).to_contain_text("cancelled", timeout=SLOW)


@pytest.mark.parametrize("path", ["", "/log"])
@pytest.mark.parametrize("way", ["lost", "old"])
async def test_an_answer_that_is_lost_or_too_old_hides_no_news(
    small: Server, browser: Browser, path: str, way: str
) -> None:
    number = await _running(small)
    async with tab(browser, small.private) as watched:
        page = watched.page
        await page.add_init_script(STREAM)
        await _opened(watched, f"/builds/{number}{path}")
        await _until(page, "told.includes('hello')")
        over = asyncio.Event()

        async def late(route: Route) -> None:
            """Once the page was told of the end the answer is lost, or one of before."""
            answer = await route.fetch() if way == "old" else None
            await small.post(f"/builds/{number}/cancel")
            await _until(page, "told.includes('end')")
            if answer is not None:
                await route.fulfill(response=answer)
            else:
                await route.abort("connectionreset")
            over.set()

        await page.route(f"**/builds/{number}{path}*", late, times=1)
        if way == "old":
            await page.evaluate(PROGRESS, number)
        else:
            await small.post(f"/builds/{number}/cancel")
        await asyncio.wait_for(over.wait(), 60)
        symbol = page.locator("h1").get_by_text("⊘")
        await expect(symbol).to_be_attached(timeout=SLOW)
        watched.faults = [it for it in watched.faults if "ERR_CONN" not in it]
