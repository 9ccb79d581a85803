"""The page of a build: the same facts as HTML, text and JSON, whatever they say."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ci.adapters.metrics import Metrics
from ci.config import parse
from ci.history import logs
from ci.models import BuildState, Target, human_seconds
from ci.serve.html import visible
from tests.fakes.turns import HOUR, no_turn
from tests.serve.conftest import (
    KEY,
    REPO,
    VERSION,
    Private,
    Served,
    document,
    error_of,
    sha,
)
from tests.serve.page import Page, page

# Seconds since the epoch.
LAST_STEP = 2004.0
STORE = "/nix/store/00000000000000000000000000000000-"
HOSTILE = (
    "web: add page",
    "</title><script>alert(1)</script>",
    "\x1b[2J\x1b]8;;http://evil.example\x07click\x1b]8;;\x07",
    "\u202egnp.exe\u2066",
    "one\rtwo\r\nthree",
    '" onmouseover="alert(1)',
    "{{ 7 * 7 }} {% raw %} &amp; &#60;b&#62;",
    "x" * 300,
    "",
)


def squeezed(text: str) -> str:
    return " ".join(text.split())


def some_target(dice: random.Random, number: int) -> Target:
    state = dice.choice(sorted(BuildState))
    bad = state in (BuildState.FAILED, BuildState.ERROR, BuildState.SKIPPED)
    return Target(
        name=f"checks.t{number}-{dice.choice(HOSTILE)}",
        state=state,
        seconds=dice.choice([None, 0.2, 61.0]),
        error=f"broke: {dice.choice(HOSTILE)}" if bad else None,
        outputs={"out": f"{STORE}t{number}"} if state is BuildState.SUCCEEDED else None,
        derivation=f"{STORE}t{number}.drv",
    )


def some_log(dice: random.Random, targets: tuple[Target, ...]) -> bytes:
    lines = [b"build-server: evaluated"]
    for number, target in enumerate(targets):
        said = (target.error or "fine").encode().replace(b"\n", b" ")
        lines += [b"t%d> line \xff %d" % (number, n) for n in range(dice.randrange(20))]
        lines.append(b"t%d> %s" % (number, said))
    return b"\n".join(lines) + b"\n"


async def some_build(served: Served, dice: random.Random, number: int) -> int:
    state = dice.choice(sorted(BuildState))
    ran = state not in (BuildState.QUEUED, BuildState.SKIPPED)
    targets = (
        tuple(some_target(dice, n) for n in range(dice.randrange(5))) if ran else ()
    )
    build = await served.add(
        number,
        state,
        targets=targets,
        branch=dice.choice(["dev", "dev", "main", None]),
        title=dice.choice(HOSTILE) or "nothing to say",
        summary=dice.choice(HOSTILE) if ran else "",
        log=some_log(dice, targets) if ran and dice.random() < 0.8 else None,
    )
    steps = f'[["fetching inputs", 2000000], ["building", {LAST_STEP * 1000:.0f}]]'
    if dice.random() < 0.5:
        await served.database.write(
            lambda connection: connection.execute(
                "UPDATE attempts SET steps = ? WHERE build = ?", (steps, build)
            )
        )
    return build


@pytest.mark.parametrize("seed", range(3))
async def test_page_text_and_json_say_the_same_of_whatever_there_is(
    tmp_path: Path, served: Served, seed: int
) -> None:
    cache = {"url": "http://127.0.0.1:5000", "public_key": KEY}
    served.settings = parse(document(tmp_path, cache=cache))
    dice = random.Random(seed)
    async with TestClient(TestServer(served.application())) as client:
        numbers = [await some_build(served, dice, n) for n in range(1, 31)]
        for number in numbers:
            # What runs has run for so many days and hours.
            await no_turn(HOUR, LAST_STEP)
            async with client.get(f"/builds/{number}.json") as response:
                facts = await response.json()
            async with client.get(f"/builds/{number}.txt") as response:
                text = await response.text()
            assert all(char.isprintable() or char == "\n" for char in text)
            shown = await page(client, f"/builds/{number}")
            _agree_on_the_build(facts, shown, squeezed(text))
            _agree_on_the_rest(facts, shown, squeezed(text))


def _agree_on_the_build(facts: dict[str, Any], shown: Page, text: str) -> None:
    here = f"/builds/{facts['number']}"
    said = [f"#{facts['number']}", facts["repo"], facts["sha"][:7], facts["state"]]
    said += [facts["branch"] or "no branch", facts["title"], facts["author"]]
    said.append(facts["cause"])
    if facts["seconds"] is not None:
        said.append(human_seconds(facts["seconds"]))
    for target in facts["targets"]:
        said += [target["name"], target["state"], *target["outputs"].values()]
        said += (target["error"] or "").splitlines()
        if target["seconds"] is not None:
            said.append(human_seconds(target["seconds"]))
    for error in facts["errors"]:
        said += [error["target"], *error["lines"]]
    for warning in facts["warnings"]:
        said += [warning["text"], f"{warning['count']} times"][: warning["count"]]
        assert f"log line {warning['line']}:" in text
        assert f"{here}/log#L{warning['line']}" in shown.links
    for step in facts["steps"]:
        said += [step["name"], human_seconds(step["seconds"])]
    said += [facts["waits"] or "", facts["fetchable"] or "", *facts["reproduce"]]
    said += [facts["log_removed"] or ""]
    for fact in said:
        assert squeezed(visible(fact)) in shown.text, fact
        assert squeezed(visible(fact)).replace("\u200d", "\\u200d") in text, fact


def _agree_on_the_rest(facts: dict[str, Any], shown: Page, text: str) -> None:
    here = f"/builds/{facts['number']}"
    for key in ("older", "newer", "last_good", "broken_since"):
        if facts[key] is not None:
            assert f"/builds/{facts[key]}" in shown.links, key
            assert f"{key.replace('_', ' ')} #{facts[key]}" in text, key
    for error in facts["errors"]:
        if error["line"] is not None:
            assert f"log line {error['line']}" in text
            if not facts["log_removed"]:
                assert f"{here}/log#L{error['line']}" in shown.links
    if facts["compare"]:
        assert facts["compare"] in shown.links
        assert facts["compare"] in text
    assert (f"{here}/log" in shown.links) is (facts["log_removed"] is None)
    assert f"{here}.json" in shown.links
    assert facts["log"] in text
    assert facts["newest"] is (facts["newer"] is None)
    symbols = {"succeeded": "✓", "failed": "✗", "error": "!", "running": "●"}
    assert shown.title.startswith(
        f"{symbols.get(facts['state'], shown.title[0])} #{facts['number']} "
    )


async def facts_of(client: Private, number: int) -> dict[str, Any]:
    async with client.get(f"/builds/{number}") as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_first_error_leads_to_its_line(served: Served, client: Private) -> None:
    log = (
        b"web> one\ndb> other\nweb> \x1b[31mfatal\x1b[0m: expected 200, got 500\n"
        b"web> 1 failed\nbuild-server: failed: 1 of 1\n"
    )
    error = "builder failed with exit code 1: fatal: expected 200, got 500"
    target = Target("checks.web", BuildState.FAILED, 1, error, None, STORE + "web.drv")
    number = await served.add(1, BuildState.FAILED, targets=(target,), log=log)
    facts = await facts_of(client, number)
    lines = ["one", "fatal: expected 200, got 500"]
    assert facts["errors"] == [{"target": "checks.web", "line": 3, "lines": lines}]
    assert f"/builds/{number}/log#L3" in (await page(client, f"/builds/{number}")).links


async def test_each_warning_is_told_once_with_how_often_it_came(
    served: Served, client: Private
) -> None:
    log = (
        b"trace: \x1b[1;31mwarning: `mkFoo` is now `foo`\x1b[0m\n"
        b"build-server: warning: ours\n"
        b"evaluation warning: <script>alert(1)</script>\n  it goes on\n"
        b"web> warning: of a compiler\n"
        b"trace: warning: `mkFoo` is now `foo`\nwarning: \n"
    )
    number = await served.add(1, BuildState.SUCCEEDED, log=log)
    facts = await facts_of(client, number)
    assert facts["warnings"] == [
        {"text": "`mkFoo` is now `foo`", "count": 2, "line": 1},
        {"text": "<script>alert(1)</script>", "count": 1, "line": 3},
    ]
    async with client.get(f"/builds/{number}.txt") as response:
        text = squeezed(await response.text())
    _agree_on_the_build(facts, await page(client, f"/builds/{number}"), text)
    many = b"".join(b"warning: number %d\n" % at for at in range(30)) * 2
    number = await served.add(2, BuildState.SUCCEEDED, log=many)
    warnings = (await facts_of(client, number))["warnings"]
    assert [each["count"] for each in warnings] == [2] * 20


async def test_a_removed_log_leaves_the_error_and_says_when_it_went(
    served: Served, client: Private
) -> None:
    target = Target("checks.web", BuildState.FAILED, 1, "expected 200, got 500")
    number = await served.add(1, BuildState.FAILED, targets=(target,))
    await served.database.write(
        logs.condemn, [logs.Log(number, 1, 3, 0)], (), "on 2026-11-20 for its age"
    )
    facts = await facts_of(client, number)
    assert facts["log_removed"] == "removed on 2026-11-20 for its age"
    error = {"target": "", "line": None, "lines": ["expected 200, got 500"]}
    assert facts["errors"] == [{**error, "target": "checks.web"}]
    shown = await page(client, f"/builds/{number}")
    assert "The log was removed on 2026-11-20 for its age." in shown.text
    assert not [link for link in shown.links if "/log" in link]


async def test_a_waiting_build_says_why(served: Served, tmp_path: Path) -> None:
    served.settings = parse(document(tmp_path, build={"parallel": 1}))
    async with TestClient(TestServer(served.application())) as client:
        first, second = await served.add(1), await served.add(2)
        assert (await facts_of(client, second))["waits"] == "it is next"
        assert (await facts_of(client, first))["waits"] == "1 build before it"
        await served.begin(second)
        waits = (await facts_of(client, first))["waits"]
        assert waits == (
            "it is next: 1 build runs, and no more than build.parallel = 1 at once"
        )
        await served.put_back(second)
        await served.database.write(_postpone, second)
        waits = (await facts_of(client, second))["waits"]
        assert re.search(r"retry at 2\S*.*, in 9m \d+s", waits), waits
        served.held = "only 1 GiB free in /nix/store"
        assert (await facts_of(client, second))["waits"] == served.held
        assert served.held in (await page(client, f"/builds/{second}")).text
    served.settings = parse(document(tmp_path, build={"parallel": 0}))
    served.metrics = Metrics(VERSION)
    async with TestClient(TestServer(served.application())) as client:
        waits = (await facts_of(client, first))["waits"]
        assert waits == "build.parallel = 0: this server builds nothing"


def _postpone(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "UPDATE builds SET not_before = unixepoch() * 1000 + 598000 WHERE number = ?",
        (number,),
    )


async def test_a_running_build_says_how_far_it_is(
    served: Served, client: Private
) -> None:
    await served.add(1, BuildState.SUCCEEDED)
    number = await served.add(2, BuildState.RUNNING)
    await served.database.write(
        lambda connection: connection.execute(
            "UPDATE builds SET started_at = unixepoch() * 1000 - 100000, "
            "summary = 'building: 9 of 14 derivations · web' WHERE number = ?",
            (number,),
        )
    )
    facts = await facts_of(client, number)
    assert facts["derivations"] == {"done": 9, "total": 14}
    assert (facts["expected_seconds"], facts["last_good"]) == (1000.0, 1)
    shown = await page(client, f"/builds/{number}")
    for told in (shown.text, await _text(client, number)):
        assert "building: 9 of 14 derivations · web · ≈ 1" in told
        assert "left (median of the last good builds: 16m 40s)" in told


async def _text(client: Private, number: int) -> str:
    async with client.get(f"/builds/{number}.txt") as response:
        return squeezed(await response.text())


async def test_who_ended_a_build_is_said_and_linked(
    served: Served, client: Private
) -> None:
    number = await served.add(1)
    await served.cancel(number)
    assert "cancelled by Ada" in (await page(client, f"/builds/{number}")).text
    why = "cancelled by a newer head: superseded by #413"
    await served.database.write(
        lambda connection: connection.execute("UPDATE builds SET summary = ?", (why,))
    )
    shown = await page(client, f"/builds/{number}")
    assert why in shown.text
    assert "/builds/413" in shown.links


async def test_an_error_of_ours_is_not_the_commits(
    served: Served, client: Private
) -> None:
    why = "the Nix daemon says nothing any more"
    targets = tuple(Target(f"checks.t{n}", BuildState.ERROR, 1, why) for n in range(3))
    number = await served.add(
        1, BuildState.ERROR, targets=targets, summary=why, log=b"hello\n"
    )
    errors = (await facts_of(client, number))["errors"]
    assert errors == [{"target": "", "line": None, "lines": [why]}]
    shown = await page(client, f"/builds/{number}")
    assert f"#{number} error after 16m 40s: not your commit" in shown.text
    assert "not your commit" in await _text(client, number)


async def test_earlier_attempts_stay_in_reach(served: Served, client: Private) -> None:
    number = await served.add(1, BuildState.RUNNING, log=b"first\n")
    await served.put_back(number)
    await served.begin(number)
    await served.finish(number)
    attempts = (await facts_of(client, number))["attempts"]
    assert [attempt["number"] for attempt in attempts] == [2, 1]
    assert (attempts[1]["outcome"], attempts[1]["reason"]) == (
        "interrupted",
        "the network is down",
    )
    shown = await page(client, f"/builds/{number}")
    assert f"/builds/{number}/log?attempt=1" in shown.links
    assert "attempt 1: interrupted after 1s: the network is down" in shown.text


@pytest.mark.parametrize(
    ("url", "name", "command"),
    [
        (
            "https://github.com/owner/name.git",
            "checks.web-test",
            "nix build 'git+https://github.com/owner/name.git?ref=dev&rev=SHA"
            "#checks.SYSTEM.web-test'",
        ),
        (
            "git@example.org:owner/name.git",
            'homeConfigurations."ada@laptop"',
            "nix build 'git+ssh://git@example.org/owner/name.git?ref=dev&rev=SHA"
            '#homeConfigurations."ada@laptop".activationPackage\'',
        ),
        (
            "/srv/git/a_b",
            "packages.aarch64-linux.it's",
            "nix build 'git+file:///srv/git/a_b?ref=dev&rev=SHA"
            "#packages.aarch64-linux.it'\"'\"'s'",
        ),
    ],
)
async def test_the_command_builds_the_same_elsewhere(
    tmp_path: Path, served: Served, url: str, name: str, command: str
) -> None:
    repository = {"name": REPO, "branches": ["dev"], "url": url}
    served.settings = parse(document(tmp_path, repository=[repository]))
    good = Target("packages.first", BuildState.SUCCEEDED)
    bad = Target(name, BuildState.FAILED, 1, "broke")
    number = await served.add(1, BuildState.FAILED, targets=(good, bad))
    async with TestClient(TestServer(served.application())) as client:
        facts = await facts_of(client, number)
    system = f"{os.uname().machine}-linux"
    assert facts["reproduce"][0] == command.replace("SHA", sha(1)).replace(
        "SYSTEM", system
    )
    assert len(facts["reproduce"]) == 2


async def test_what_a_command_built_is_done_again_by_hand(
    tmp_path: Path, served: Served
) -> None:
    repository = {
        "name": REPO,
        "builder": "command",
        "command": ["make", "all of it"],
    }
    served.settings = parse(document(tmp_path, repository=[repository]))
    bad = Target("make all of it", BuildState.FAILED, 1, "exit code 2: FAILED x::y")
    log = b"collected 1\nFAILED x::y\nbuild-server: failed: FAILED x::y\n"
    good = await served.add(1, BuildState.SUCCEEDED)
    number = await served.add(2, BuildState.FAILED, targets=(bad,), log=log)
    async with TestClient(TestServer(served.application())) as client:
        facts = await facts_of(client, number)
    assert facts["reproduce"] == [
        "git clone https://github.com/owner/name.git name",
        f"git -C name checkout {sha(2)}",
        "cd name && make 'all of it'",
    ]
    assert facts["compare"] == (
        f"https://github.com/owner/name/compare/{sha(1)}...{sha(2)}"
    )
    assert facts["last_good"] == good
    assert [(error["line"], error["lines"]) for error in facts["errors"]] == [
        (2, ["collected 1", "FAILED x::y"])
    ]


async def test_no_build_names_its_neighbours(served: Served, client: Private) -> None:
    for number in (1, 2, 3):
        await served.add(number)
    await served.database.write(_remove, 2)
    body = await error_of(client, "GET", "/builds/2", 404)
    assert body["detail"] == {"build": 2, "nearest": [1, 3]}
    assert "nearest: build 1 and build 3" in body["error"]


def _remove(connection: sqlite3.Connection, number: int) -> None:
    for table in ("branch_commits", "outbox"):
        connection.execute(f"DELETE FROM {table} WHERE build = ?", (number,))  # noqa: S608 — literals
    connection.execute("DELETE FROM builds WHERE number = ?", (number,))


async def test_the_page_does_not_wait_for_the_log(
    served: Served, client: Private
) -> None:
    """Ten readers of a build with a log of 64 MiB: the event loop is never held up."""
    target = Target("a", BuildState.FAILED, 1, "it broke here", None, STORE + "web.drv")
    line = b"web> " + b"x" * 90 + b"\n"
    log = line * (64 * 1024 * 1024 // len(line)) + b"web> it broke here\n"
    number = await served.add(1, BuildState.FAILED, targets=(target,), log=log)
    found = await asyncio.gather(*(facts_of(client, number) for _ in range(10)))
    assert {facts["errors"][0]["line"] for facts in found} == {log.count(b"\n")}
