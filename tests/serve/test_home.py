"""`/`: page, JSON and text tell the same, and nothing in a name or a title does harm."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, strategies as st

from ci.config import parse
from ci.history.database import Database
from ci.models import BuildState, Check, Target
from ci.serve import text
from ci.text import printable
from tests.serve.conftest import REPO, Private, Served, document
from tests.serve.reading import HOSTILE, page

S = BuildState
ANSI = re.compile(r"\x1b\[[0-9;]*m")


async def json_of(client: Private, path: str = "/index.json") -> Any:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def text_of(client: Private, path: str = "/") -> str:
    async with client.get(path) as response:
        assert response.content_type == "text/plain"
        return await response.text()


async def test_branch_is_broken_since_the_same_build_everywhere(
    served: Served, client: Private
) -> None:
    numbers = [
        await served.add(n, state)
        for n, state in enumerate(
            [S.SUCCEEDED, S.FAILED, S.SUCCEEDED, S.FAILED, S.ERROR, S.FAILED], 1
        )
    ]
    good = await served.add(20, S.SUCCEEDED, branch="main")
    dev, main = (await json_of(client))["branches"]
    assert (dev["last"]["number"], main["last"]["number"]) == (numbers[5], good)
    assert (dev["broken_since"], dev["last_good"]) == (numbers[3], numbers[2])
    assert (main["broken_since"], main["broken_sha"], main["last_good"]) == (None,) * 3
    assert [one["number"] for one in dev["trend"]] == numbers
    assert dev["typical_seconds"] == 1000.0
    assert dev["pass_rate"] == round(2 / 6, 3)
    sentence = (
        f"broken since #{dev['broken_since']} ({dev['broken_sha'][:7]}), "
        f"last good #{dev['last_good']}"
    )
    rate = f"{dev['pass_rate'] * 100:.0f} % of the last 6 succeeded"
    assert f"    {sentence} · {rate}\n" in await text_of(client)
    read = await page(client, "/")
    assert sentence in read.words
    assert rate in read.words
    assert read.title.startswith(f"✗ {REPO} dev is broken")
    bars = [link for link in read.links if link == f"/builds/{numbers[0]}"]
    assert len(bars) == 2, "once in the trend, once in the list"
    assert read.words.count("broken since") == 1
    builds = [build["number"] for build in (await json_of(client))["builds"]]
    assert builds == [good, *numbers[::-1]]
    listed = [tag["href"] for tag in read.all("a") if "data-open" in tag][2:]
    assert listed == [f"/builds/{number}" for number in builds]


async def test_progress_is_told_alike(served: Served, client: Private) -> None:
    await served.add(1, S.SUCCEEDED)
    targets = (
        Target("a", S.SUCCEEDED, 1.0),
        Target("b", S.RUNNING),
        Target("c", S.QUEUED),
    )
    number = await served.add(2, S.RUNNING, targets=targets)
    (running,) = (await json_of(client))["running"]
    assert running["number"] == number
    assert (running["done"], running["total"], running["unit"]) == (1, 3, "targets")
    assert running["expected_seconds"] == 1000.0
    assert running["elapsed_seconds"] > 1000
    assert "1 of 3 targets · " in await text_of(client)
    read = await page(client, "/")
    assert "1 of 3 targets · " in read.words
    assert "longer than the usual 16m 40s" in read.words
    (bar,) = read.all("progress")
    assert (bar["max"], bar["value"]) == ("3", "1")


async def test_derivations_say_more_than_targets(
    served: Served, client: Private, database: Database
) -> None:
    number = await served.add(2, S.RUNNING, targets=(Target("a", S.RUNNING),))
    said = "building: 9 of 41 derivations · foo-1.2"
    await database.write(
        lambda connection: (
            connection.execute(
                "UPDATE builds SET summary = ? WHERE number = ?", (said, number)
            ).rowcount
        )
    )
    (running,) = (await json_of(client))["running"]
    assert (running["done"], running["total"]) == (9, 41)
    assert running["unit"] == "derivations"
    (bar,) = (await page(client, "/")).all("progress")
    assert (bar["max"], bar["value"]) == ("41", "9")
    assert "9 of 41 derivations · " in await text_of(client)


async def test_queue_says_why_it_waits(served: Served, tmp_path: Path) -> None:
    served.settings = parse(document(tmp_path, build={"parallel": 0}))
    await served.add(1)
    async with TestClient(TestServer(served.application())) as client:
        why = (await json_of(client))["waits"]
        assert "build.parallel = 0" in why
        assert f"the queue waits: {why}\n" in await text_of(client)
        assert f"it waits: {why}" in (await page(client, "/")).words


async def test_trouble_of_the_server_is_told_first(
    served: Served, client: Private
) -> None:
    read = await page(client, "/")
    assert (await json_of(client))["trouble"] == []
    assert "needs help" not in read.words
    detail = "the disk is <full>: " + "no build begins " * 8
    bad = Check("disk", False, detail, "remove something from /var")
    served.found = [Check("database", True, "writable"), bad]
    await served.add(1)
    assert (await json_of(client))["trouble"] == [
        {
            "name": "disk",
            "ok": False,
            "detail": detail,
            "fix": "remove something from /var",
        }
    ]
    told = await text_of(client)
    assert all(len(line) <= 80 for line in told.splitlines())
    words = " ".join(told.split())
    assert f"✗ disk {detail}fix: remove something from /var" in words
    shown = (await page(client, "/")).words
    assert "The server itself needs help" in shown
    assert "✗ disk: the disk is <full>: no build begins" in shown
    assert "→ remove something from /var" in shown
    assert "writable" not in shown


async def test_retry_that_waits_says_until_when(
    served: Served, client: Private, database: Database
) -> None:
    await served.add(1)
    await database.write(
        lambda connection: (
            connection.execute("UPDATE builds SET not_before = 99999999999999").rowcount
        )
    )
    assert "the next retry is due in" in (await json_of(client))["waits"]


async def test_nothing_waits_for_no_reason(served: Served, client: Private) -> None:
    assert (await json_of(client))["waits"] is None
    await served.add(1)
    assert (await json_of(client))["waits"] is None


async def test_empty_server_says_what_starts_a_build(client: Private) -> None:
    read = await page(client, "/")
    assert read.title.startswith("Nothing built yet")
    assert "push to dev, main of owner/name" in read.words
    assert "/setup" in read.links
    said = await text_of(client)
    assert "nothing built yet" in said
    assert "/setup" in said


async def test_text_fits_a_terminal_and_is_coloured_only_when_asked(
    served: Served, client: Private
) -> None:
    for number, state in enumerate(S, 1):
        await served.add(number, state, title="wide 漢字 title " * 20)
    await served.add(20, S.FAILED, branch="long/" + "x" * 200, title="e\u0301" * 100)
    plain = await text_of(client)
    assert max(text.columns(line) for line in plain.splitlines()) <= text.WIDTH
    assert "\x1b" not in plain
    coloured = await text_of(client, "/?color=1")
    assert ANSI.sub("", coloured) == plain
    for state in S:
        mark = f"\x1b[{text.COLOURS[state]}m{text.SYMBOLS[state]}\x1b[0m"
        assert mark in coloured, state


@given(st.text(), st.integers(1, 20))
def test_what_is_cut_fits(words: str, width: int) -> None:
    said = printable(words)
    kept = text.cut(said, width)
    assert text.columns(kept) <= width
    assert (kept == said) == (text.columns(said) <= width)
    assert said.startswith(kept.removesuffix("…"))


@pytest.mark.parametrize("state", [S.RUNNING, S.FAILED, S.QUEUED])
async def test_hostile_words_do_no_harm(
    served: Served, tmp_path: Path, state: BuildState
) -> None:
    branch = "a\"b<i>&'\u202e\ufffe"
    served.settings = parse(
        document(tmp_path, repository=[{"name": REPO, "branches": [branch]}])
    )
    target = Target("checks.x", state, 1.0, HOSTILE)
    await served.add(1, S.SUCCEEDED, branch=branch)
    await served.add(
        2, state, branch=branch, title=HOSTILE, summary=HOSTILE, targets=(target,)
    )
    async with TestClient(TestServer(served.application())) as client:
        read = await page(client, "/")
        assert "<script>alert(1)</script>" in read.words
        plain = await text_of(client)
    assert all(char.isprintable() or char == "\n" for char in plain)
    assert not [line for line in plain.splitlines() if line.startswith("forged")]
