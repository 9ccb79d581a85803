"""Debian's Chromium, driven by Playwright, and what every page must keep to in it."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    async_playwright,
    expect,
)

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
AXE = Path(__file__).parents[1] / "samples/axe/axe.min.js.gz"
# What axe calls worth mending at once; the rest is taste.
GRAVE = ("serious", "critical")

# Only ends what hangs; Playwright's own five seconds a busy machine may need.
expect.set_options(timeout=30_000)

WIDE = {"width": 1200, "height": 900}
PHONE = {"width": 390, "height": 844}


class ChromiumMissing(Exception):
    """There is none here; `str()` says what to do."""


def find_chromium() -> str:
    """The program, or the one that `CHROMIUM` names; raises ChromiumMissing."""
    for name in (os.environ.get("CHROMIUM", ""), *PROGRAMS):
        if name and (path := shutil.which(name)):
            return path
    raise ChromiumMissing("no Chromium: apt-get install chromium, or set CHROMIUM")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser without a window."""
    # Root's processes cannot have Chromium's own sandbox; the pages are ours.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=find_chromium(), args=arguments
        )
        try:
            yield browser
        finally:
            await browser.close()


class Watched:
    """A tab that remembers whatever no page of ours may do.

    `faults`: messages of the console (a breach of the policy is one), errors of scripts,
    dialogs, requests to another host and answers from 400 on.
    """

    def __init__(self, context: BrowserContext, page: Page, host: str) -> None:
        self.context = context
        self.page = page
        self.faults: list[str] = []
        self._host = host
        self._excused: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self._note(f"script: {error}"))
        page.on("dialog", lambda dialog: self._note(f"dialog: {dialog}"))
        page.on("request", self._asked)
        page.on("response", self._answered)

    def excuse(self, words: str) -> None:
        """Forget faults with these words, also those that are told of later."""
        self._excused.append(words)
        self.faults = [fault for fault in self.faults if words not in fault]

    def _note(self, fault: str) -> None:
        if not any(words in fault for words in self._excused):
            self.faults.append(fault)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith(self._host):
            self._note(f"asked {request.url}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._note(f"{response.status} for {response.url}")

    async def open(self, path: str, *, wait: str = "load") -> None:
        """Go to a page of the server's own."""
        await self.page.goto(self._host + path, wait_until=wait)  # type: ignore[arg-type]

    async def findings(self, *rules: str) -> list[str]:
        """What axe finds grave, one line each; by all its rules when none is named."""
        # By the debugger: the page's own policy would not let it in.
        await self.page.evaluate(gzip.decompress(AXE.read_bytes()).decode())
        found: dict[str, Any] = await self.page.evaluate(
            "(rules) => axe.run(document, {resultTypes: ['violations'],"
            " ...(rules.length && {runOnly: rules})})",
            rules,
        )
        return [
            f"{each['id']} ({each['impact']}): {node['html'][:200]}: "
            f"{node['failureSummary'][:300]}"
            for each in found["violations"]
            if each["impact"] in GRAVE
            for node in each["nodes"]
        ]

    async def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        width: int = await self.page.evaluate(
            "document.documentElement.scrollWidth - window.innerWidth"
        )
        return width


@asynccontextmanager
async def tab(
    browser: Browser,
    host: str,
    *,
    script: bool = True,
    dark: bool = False,
    size: dict[str, int] | None = None,
) -> AsyncIterator[Watched]:
    """A fresh profile with one tab; the test fails on any fault that is left in it."""
    context = await browser.new_context(
        java_script_enabled=script,
        color_scheme="dark" if dark else "light",
        viewport=size or WIDE,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    try:
        watched = Watched(context, await context.new_page(), host)
        yield watched
        assert watched.faults == [], watched.faults
    finally:
        await context.close()


def lines(found: Sequence[str]) -> str:
    return "\n".join(found)
