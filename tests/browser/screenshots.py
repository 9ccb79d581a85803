"""Pictures of every page, of real builds: `make screenshots`.

All of them go to `.cache/screenshots`; those that the README shows, to `docs/screenshots`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path

from playwright.async_api import Browser

from tests.browser.chromium import PHONE, chromium, tab
from tests.end_to_end.server import Server, World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import find_nix, private_store
from tests.fakes.repository import Origin
from tests.fakes.showcase import BAD, EVALUATION, GOOD, REPO, RUNNING, showcase
from tests.fakes.tree import CHECKOUT

ALL = CHECKOUT / ".cache/screenshots"
SHOWN = CHECKOUT / "docs/screenshots"
IN_README = ("home-light", "failed-light", "log-dark")

PAGES = {
    "home": "/",
    "builds": "/builds",
    "succeeded": f"/builds/{GOOD}",
    "failed": f"/builds/{BAD}",
    "evaluation": f"/builds/{EVALUATION}",
    "running": f"/builds/{RUNNING}",
    "queued": f"/builds/{RUNNING + 1}",
    "log": f"/builds/{BAD}/log",
    "log-running": f"/builds/{RUNNING}/log",
    "search": f"/builds/{BAD}/log?q=500",
    "timeline": f"/builds/{GOOD}/timeline",
    "repository": f"/repos/{REPO}",
    "stats": "/stats",
    "setup": "/setup",
    "help": "/help",
}
WAYS: dict[str, dict[str, object]] = {
    "light": {},
    "dark": {"dark": True},
    "phone": {"size": PHONE},
}


async def take(browser: Browser, server: Server) -> None:
    """One picture of each page in each way."""
    for way, options in WAYS.items():
        async with tab(browser, server.private, **options) as watched:  # type: ignore[arg-type]
            for name, path in PAGES.items():
                await watched.open(path)
                await watched.page.screenshot(
                    path=ALL / f"{name}-{way}.png", full_page=way == "phone"
                )


async def main() -> None:
    """Build the showcase, look at it, keep the pictures."""
    for folder in (ALL, SHOWN):
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        private_store(find_nix("installed")) as store,
    ):
        async with FakeGitHub() as github, chromium() as browser:
            origin = Origin(Path(home) / "origin.git")
            world = World(Path(home), origin, github, store.env, store.program)
            async with showcase(world) as server:
                await take(browser, server)
    for name in IN_README:
        shutil.copy(ALL / f"{name}.png", SHOWN / f"{name}.png")
    print(f"{len(PAGES) * len(WAYS)} pictures in {ALL}")


if __name__ == "__main__":
    asyncio.run(main())
