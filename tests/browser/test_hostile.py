"""Names, messages and logs from people who wish us ill, looked at in a real browser."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import PHONE, tab
from tests.end_to_end.server import Server, World
from tests.fakes.flakes import HERE
from tests.fakes.push import ZERO, encode, make_commit, make_push

pytestmark = pytest.mark.asyncio(loop_scope="session")

EVIL = "<img src=x onerror=pwned=1><script>pwned=1</script>\"'&lt;"
SLY = "\x1b[31mred\x1b]8;;javascript:pwned=1\x07click\x1b]8;;\x07\u202etxt.exe\r\x00"
LONG = "x" * 200
LOG = r"""
printf '%s\n' '<script>pwned=1</script><img src=x onerror=pwned=1>'
printf '\033]8;;javascript:pwned=1\007click me\033]8;;\007\n'
printf '\033]8;;https://example.org/\042onmouseover=pwned=1\007link\033]8;;\007\n'
printf 'https://example.org/"><script>pwned=1</script>\n'
printf 'data: {}\rdata: forged\r\nid: 9\n\033[2J\033[1;1Hgone\n'
printf '\342\200\256desrever \377\376 \000 nul\n'
printf '\033[31mred, and never closed: </p></details></main>\n'
exit 1
"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hostile(browser: Browser, world: World) -> AsyncIterator[Server]:
    """One build whose every word is meant to harm."""
    name = EVIL.replace('"', '\\"')
    script = LOG.replace("\\", "\\\\").replace('"', '\\"')
    flake = f"""{{
      outputs = _: {{ packages.{HERE}."{name}" = derivation {{
        name = "x"; system = "{HERE}"; builder = "/bin/sh"; PATH = "/bin:/usr/bin";
        args = [ "-c" "{script}" ];
      }}; }};
    }}"""
    world.repository = {"targets": ["packages.*"]}
    async with world.server() as server:
        sha = await asyncio.to_thread(world.origin.commit, {"flake.nix": flake})
        commit = make_commit(sha, EVIL + SLY + LONG, author=EVIL + SLY + LONG)
        payload = make_push([commit], before=ZERO, created=True)
        assert (await server.deliver(encode(payload)))[0] == 202
        assert (await server.finished(1))["state"] == "failed"
        yield server


@pytest.mark.parametrize("script", [True, False])
async def test_nothing_of_it_becomes_markup(
    hostile: Server, browser: Browser, script: bool
) -> None:
    build = await hostile.build(1)
    target = quote(build["targets"][0]["name"])
    async with tab(browser, hostile.private, script=script, size=PHONE) as watched:
        for path in (
            "/",
            "/builds?q=%3Cscript%3E",
            "/builds/1",
            "/builds/1/log",
            f"/builds/1/log?target={target}",
            "/builds/1/log?q=%3Cscript%3E",
            "/builds/1/timeline",
            f"/commits/{build['sha']}",
            f"/repos/{build['repo']}",
            f"/repos/{build['repo']}/badge.svg?branch=dev",
            "/stats",
            "/setup",
        ):
            await watched.open(path)
            # Without scripts of its own a page can still be asked by the debugger.
            found = await watched.page.evaluate(
                """[typeof pwned, document.querySelectorAll(
                'img:not([src^="/repos/"]), script:not([src]), [onerror], ' +
                '[onmouseover], a[href^=javascript]').length]"""
            )
            assert found == ["undefined", 0], path
            assert await watched.overflow() <= 0, path
            text = await watched.page.evaluate("document.documentElement.textContent")
            assert not set("\u202e\x1b\x00\x07") & set(text), path


async def test_feeds_and_texts_carry_it_as_text(hostile: Server) -> None:
    build = await hostile.build(1)
    for path in (
        f"/repos/{build['repo']}/feed.atom",
        f"/repos/{build['repo']}/cc.xml",
        "/index.txt",
        "/builds.txt",
        "/builds/1.txt",
        "/builds/1/timeline.txt",
        f"/repos/{build['repo']}.txt",
    ):
        text = (await hostile.text(path)).decode()
        assert not set("\u202e\x1b\x00\x07\r") & set(text), path
        if path.endswith((".atom", ".xml")):
            assert "<script" not in text
            assert "<img" not in text
