"""What the server says is around a build, and what is guessed when it is too old to."""

from __future__ import annotations

import json

import pytest

from ci.client.builds import Excerpt
from ci.models import BuildState, Target
from tests.client.conftest import House
from tests.client.history import fill
from tests.client.older import older

TRACE = ["running", "Traceback:", '  File "page.py"', "AssertionError: got 500", "bye"]
ERROR = "builder failed with exit code 1: AssertionError: got 500"
WHERE = ["error: attribute 'x' missing", "  at flake.nix:3:1", "", "  3| x"]


async def test_an_older_server_is_asked_for_the_builds_before(house: House) -> None:
    await fill(house)
    new = {
        number: (await house.on_terminal("bs", number, NO_COLOR="1")).out
        for number in ("410", "412", "415", "416")
    }
    async with older(house.url) as url:
        old = {
            number: (
                await house.on_terminal("bs", number, "--server", url, NO_COLOR="1")
            ).out
            for number in new
        }
    for number, line in {
        "410": "broken by this commit; last good #409",
        "412": "broken since #410 (77aa012); last good #409",
        "415": "left",
        "416": "takes ≈ 3h 10m",
    }.items():
        assert line in new[number]
        assert line in old[number]
    assert "/log#L603\n" in new["412"]
    assert "/log" not in old["412"]
    assert "builder failed with exit code 1: AssertionError" in old["412"]
    assert ("waits: " in new["416"], "waits: " in old["416"]) == (True, False)


async def test_waiting_for_an_older_server(house: House) -> None:
    await fill(house)
    async with older(house.url) as url:
        terminal = await house.open_terminal(
            "bs", "-w", "415", "--server", url, NO_COLOR="1"
        )
        await terminal.sees(
            lambda lines: any(each.endswith("9m left") for each in lines)
        )
        await house.served.finish(415, BuildState.SUCCEEDED)
        assert (await terminal.end()).code == 0


async def test_the_fields_are_there_however_the_build_is_named(house: House) -> None:
    await fill(house)
    for argv in (["bs", "412"], ["bs", "1a2b3c4"], ["bs", "-5"], ["bs", "-w", "412"]):
        ran = await house.run(*argv, "--json=last_good,broken_since,errors")
        said = json.loads(ran.out)
        assert (said["last_good"], said["broken_since"]) == (409, 410), argv
        assert said["errors"][0]["line"] == 603


@pytest.mark.parametrize(
    ("lines", "error", "rows", "shown"),
    [
        (TRACE, ERROR, 3, TRACE[1:4]),
        (TRACE, ERROR, 1, TRACE[3:4]),
        (TRACE, "something else altogether", 3, []),
        (WHERE, "flake.nix:3: attribute 'x' missing; did you mean y?", 3, []),
        (
            [*WHERE, "9| throw \"attribute 'x' missing\""],
            "attribute 'x' missing",
            3,
            [],
        ),
        (
            ["one", "error: no page"],
            "builder failed: no page",
            3,
            ["one", "error: no page"],
        ),
        (
            ["build-server: failed: t: hash mismatch: write y"],
            "hash mismatch: write y",
            3,
            [],
        ),
        (["\x1b[31mno\x1b[0m way\x9b2J"], "no way\\x9b2J", 3, ["no way\\x9b2J"]),
        ([], ERROR, 3, []),
    ],
)
def test_the_telling_lines(
    lines: list[str], error: str, rows: int, shown: list[str]
) -> None:
    found = Excerpt({"target": "t", "line": 1, "lines": lines})
    assert found.telling(error, rows) == shown


async def test_a_block_has_eight_lines_at_most(house: House) -> None:
    await fill(house)
    bad = tuple(
        Target(f"checks.t{n}", BuildState.FAILED, 1.0, f"it is number {n}\nand more")
        for n in range(5)
    )
    log = b"".join(b"t%d> it is number %d\n" % (n, n) for n in range(5))
    await house.served.add(5, BuildState.FAILED, targets=bad, log=log)
    for number in (*range(409, 417), ""):
        ran = await house.on_terminal("bs", *([str(number)] if number else []))
        assert 3 <= ran.out.count("\n") <= 8, ran.out
