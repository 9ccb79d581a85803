"""A page that is left open while the server is killed, started again, and upgraded."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.chromium import Watched, tab
from tests.browser.conftest import CI
from tests.end_to_end.server import World
from tests.fakes.github import FakeGitHub
from tests.fakes.ports import keep_port, port_of
from tests.fakes.repository import Origin
from tests.fakes.tree import CHECKOUT

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOW = 30_000
NOT_LIVE = "not live, retrying…"
STYLE = "link[rel=stylesheet]"


def _upgraded(folder: Path) -> Path:
    """A later version of the tree: one with another style."""
    for part in ("ci", "migrations", "nix"):
        shutil.copytree(
            CHECKOUT / part,
            folder / part,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    sheet = next((folder / "ci/serve/static/css").iterdir())
    sheet.write_text(sheet.read_text() + "\n/* of a later version */\n")
    return folder


async def _gone(page: Page, watched: Watched) -> None:
    """The page says that nothing new comes, and nothing else was wrong with it."""
    await expect(page.locator("#live")).to_have_text(NOT_LIVE, timeout=SLOW)
    assert all("ERR_" in fault for fault in watched.faults), watched.faults
    watched.faults.clear()


@pytest.mark.faults
async def test_an_open_page_lives_through_a_kill_and_an_upgrade(
    browser: Browser, tmp_path: Path
) -> None:
    with keep_port() as kept:
        await _live_through(browser, tmp_path, f"127.0.0.1:{port_of(kept)}")


async def _live_through(browser: Browser, tmp_path: Path, where: str) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with FakeGitHub() as github:
        origin = Origin(tmp_path / "origin.git")
        world = World(tmp_path, origin, github, environ, "nix")
        world.repository = {"builder": "command", "command": ["./ci"]}
        world.build = {"sandbox": False}
        world.private = where
        later = await asyncio.to_thread(_upgraded, tmp_path / "later")
        async with tab(browser, f"http://{where}") as watched:
            page = watched.page
            async with world.server() as server:
                await watched.open("/")
                await page.evaluate("window.loadedOnce = true")
                style = await page.get_attribute(STYLE, "href")
                await server.kill()
                await _gone(page, watched)
            files = {"ci": CI}
            sha = await asyncio.to_thread(origin.commit, files, executable=["ci"])
            async with world.server() as server:
                await server.push(sha)
                await expect(page.locator("main")).to_contain_text(
                    sha[:7], timeout=SLOW
                )
                await expect(page.locator("#live")).to_have_text("", timeout=SLOW)
                assert await page.evaluate("window.loadedOnce")
                watched.faults.clear()
                await server.kill()
                await _gone(page, watched)
            async with world.server(PYTHONPATH=str(later)):
                await expect(page.locator(STYLE)).not_to_have_attribute(
                    "href", style or "", timeout=SLOW
                )
                await expect(page.locator("main")).to_contain_text(
                    sha[:7], timeout=SLOW
                )
                assert not await page.evaluate("window.loadedOnce")
            watched.faults.clear()
