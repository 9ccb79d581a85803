"""Waiting for builds that run: what is told meanwhile, Ctrl-C, late answers."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Mapping
from typing import Any

import pytest

from ci.history.requests import Request
from ci.models import BuildState, RequestKind, Target
from tests.client.conftest import House
from tests.client.programs import end_of, next_hint, next_line
from tests.serve.desk import desk

TARGETS = (
    Target("packages.default", BuildState.RUNNING),
    Target("checks.web-test", BuildState.QUEUED),
)


async def _running(house: House, log: bytes | None = None) -> int:
    return await house.served.add(
        1, BuildState.RUNNING, targets=TARGETS, title="live", log=log
    )


async def test_watch_tells_each_target_once_and_ends_with_the_result(
    house: House,
) -> None:
    number = await _running(house)
    process = await house.start("bs", "-w", str(number))
    assert f"#{number} running" in await next_hint(process)
    await house.end_target(number, "packages.default", "succeeded", "")
    assert await next_line(process) == "packages.default\tsucceeded\t8\t-\n"
    await house.end_target(number, "checks.web-test", "failed", "got\x1b[1m 500\nmore")
    assert await next_line(process) == "checks.web-test\tfailed\t8\tgot 500\n"
    await house.served.finish(number, BuildState.FAILED)
    ran = await end_of(process)
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith(f"{number}\tfailed\tdev\t")
    assert ran.out.count("\n") == 1


async def test_watch_on_a_terminal_that_cannot_be_drawn_on(house: House) -> None:
    number = await _running(house)
    terminal = await house.open_terminal("bs", "-w", TERM="dumb")
    await terminal.shows("running")
    await house.end_target(number, "checks.web-test", "failed", "got 500")
    await terminal.shows("got 500")
    await house.served.finish(number, BuildState.FAILED)
    ran = await terminal.end()
    first, second, third = ran.out.splitlines()[:3]
    assert ran.code == 1
    assert "\x1b" not in ran.out
    assert first.startswith('● #1 dev 0000001 "live"  running ')
    assert second == "✗ checks.web-test  8s  got 500"
    assert third.startswith('✗ #1 dev 0000001 "live"  failed 16m 40s · ')


async def test_fail_fast_does_not_wait_for_the_rest(house: House) -> None:
    number = await _running(house)
    process = await house.start("bs", "-w", "--fail-fast")
    await next_hint(process)
    await house.end_target(number, "checks.web-test", "failed", "no")
    ran = await end_of(process)
    assert ran.code == 1
    assert f"{number}\trunning\t" in ran.out


async def test_watch_as_json_is_a_line_per_change(house: House) -> None:
    number = await house.served.add(1)
    process = await house.start("bs", "-w", "--json=state,attempt")
    first = json.loads(await next_line(process))
    await house.served.begin(number)
    second = json.loads(await next_line(process))
    await house.served.finish(number, BuildState.SUCCEEDED)
    ran = await end_of(process)
    assert [first, second, json.loads(ran.out)] == [
        {"state": "queued", "attempt": 0},
        {"state": "running", "attempt": 1},
        {"state": "succeeded", "attempt": 1},
    ]
    assert ran.code == 0


@pytest.mark.parametrize(
    ("argv", "again"),
    [
        (["bs", "-w"], "bs -w 1"),
        (["bl", "-f"], "bl -f 1"),
        (["bt", "-w"], "bs -w 1"),
        (["bt", "-f"], "bl -f 1"),
        (["build-trigger", "-f"], "build-logs -f 1"),
        (["build-client", "logs", "-f"], "build-client logs -f 1"),
    ],
)
async def test_ctrl_c_detaches_and_says_how_to_come_back(
    house: House, argv: list[str], again: str
) -> None:
    number = await _running(house, log=b"x> y\n")
    answer = {"status": "already_running", "message": "it runs", "build": number}
    async with desk(house.served, lambda request: answer):
        process = await house.start(*argv)
        following = "-f" in argv
        said = await (next_line(process) if following else next_hint(process))
        assert said == ("x> y\n" if following else said)
        if argv == ["bt", "-w"]:
            await next_hint(process)
        process.send_signal(signal.SIGINT)
        ran = await end_of(process)
    assert ran.code == 130
    assert ran.err.splitlines()[-1].endswith(f"detached: #1 goes on. Again: {again}")


async def test_a_trigger_that_is_still_looked_up(house: House) -> None:
    """The server answers without a build, and then with one, as to a second asker."""
    await house.close()
    house.served.patience = 1.0
    await house.open()
    number = await house.served.add(1, BuildState.SUCCEEDED)
    plain, waiting = await asyncio.gather(
        house.run("bt", "--json"), house.start("bt", "-w", "--force")
    )
    assert (plain.code, plain.out) == (0, "null\n")
    assert "is recorded" in plain.err
    assert "is recorded" in await next_hint(waiting)

    def answer(request: Request) -> Mapping[str, Any]:
        return {"status": "already_built", "message": "built", "build": number}

    async with desk(house.served, answer) as seen:
        ran = await end_of(waiting)
    assert ran.code == 0
    assert ran.out.startswith(f"{number}\tsucceeded\t")
    forced = [request.body.get("force", False) for request in seen]
    assert forced.count(True) == 1
    assert len(forced) >= 3


async def test_retry_can_be_waited_for(house: House) -> None:
    number = await house.served.add(1, BuildState.FAILED)

    def answer(request: Request) -> Mapping[str, Any]:
        return {"build": request.build}

    async with desk(house.served, answer) as seen:
        await house.served.retry(number)
        await house.served.database.write(_fail, number)
        process = await house.start("build-client", "retry", "-w", str(number))
        ran = await end_of(process)
    assert [request.kind for request in seen] == [RequestKind.RETRY]
    assert ran.code == 1


async def test_what_an_earlier_attempt_ended_with_is_no_news(house: House) -> None:
    """A build that waits again still has the targets of the attempt before."""
    ended = (Target("checks.web", BuildState.FAILED, seconds=0.3, error="no"),)
    number = await house.served.add(1, BuildState.FAILED, targets=ended)
    await house.served.retry(number)
    process = await house.start("bs", "-w", "--fail-fast", str(number))
    assert f"#{number} queued" in await next_hint(process)
    await house.served.begin(number)
    assert f"#{number} running" in await next_hint(process)
    await house.served.finish(number, BuildState.SUCCEEDED)
    ran = await end_of(process)
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert ran.out.startswith(f"{number}\tsucceeded\t")


def _fail(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("UPDATE builds SET state = 'failed' WHERE number = ?", (number,))
