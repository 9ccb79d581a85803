"""Whose lines, how many, in which form, and that nothing in them rules the terminal."""

from __future__ import annotations

import json

from ci.models import BuildState, Target
from tests.client.conftest import House

HOSTILE = (
    b"plain\n"
    b"\x1b[1;31mred\x1b[0m and \x1b[32mgreen to the end\n"
    b"\x1b]0;title\x07\x1b[2J\x1b[1A\x9b2J\x1bc\n"
    b"gcc\x1b[K tput\x1b(B\ttab\r\n"
    b"over\rwritten \x08\x7f\n"
    b"\xff\xfe \xe2\x80\xae right to left \xc2\x9b31m\n"
    b"no newline at the end"
)
SHOWN = [
    "plain",
    "\x1b[1;31mred\x1b[0m and \x1b[32mgreen to the end\x1b[0m",
    "^[]0;title^G^[[2J^[[1A\\x9b2J^[c",
    "gcc tput\ttab",
    "over^Mwritten ^H^?",
    "\\xff\\xfe \\u202e right to left \\x9b31m",
    "no newline at the end",
]
PLAIN = [
    "plain",
    "red and green to the end",
    *SHOWN[2:],
]


def _failing(name: str) -> Target:
    derivation = f"/nix/store/00000000000000000000000000000000-{name}.drv"
    return Target(f"checks.{name}", BuildState.FAILED, 1.0, "no", None, derivation)


TWO = (
    _failing("web"),
    _failing("api"),
    Target("checks.fmt", BuildState.FAILED, None, "does not evaluate"),
)
MIXED = b"".join(b"web> %d\napi> %d\n" % (number, number) for number in range(500))


async def test_hostile_lines(house: House) -> None:
    number = str(await house.served.add(1, BuildState.ERROR, log=HOSTILE))
    terminal = await house.on_terminal("bl", "-q", number)
    assert terminal.out.split("\n")[:-1] == SHOWN
    for argv in (["bl", "-q", number], ["bl", "-q", "-n", "7", number]):
        piped = await house.run(*argv)
        assert (piped.out.split("\n")[:-1], piped.err) == (PLAIN, "")
    forced = await house.run("bl", number, "--color=always")
    assert forced.out.split("\n")[:-1] == SHOWN
    plain = await house.on_terminal("bl", "-q", number, TERM="dumb")
    assert plain.out.split("\n")[:-1] == PLAIN


async def test_raw_and_json(house: House) -> None:
    number = str(await house.served.add(1, BuildState.ERROR, log=HOSTILE))
    process = await house.start("bl", number, "--raw")
    assert (await process.communicate())[0] == HOSTILE
    process = await house.start("bl", number, "--raw", "-n", "2")
    assert (await process.communicate())[0] == b"\n".join(HOSTILE.split(b"\n")[-2:])
    ran = await house.run("bl", number, "--json")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert all(line["build"] == 1 for line in lines)
    assert lines[1]["line"] == "\x1b[1;31mred\x1b[0m and \x1b[32mgreen to the end"
    assert ran.out.isprintable() or set(ran.out) - {"\n"} == {
        char for char in ran.out if char.isprintable()
    }


async def test_the_failed_target_comes_first(house: House) -> None:
    await house.served.add(1, BuildState.FAILED, targets=TWO, log=MIXED)
    ran = await house.run("bl")
    assert ran.out.splitlines() == [f"web> {number}" for number in range(500)]
    assert ran.err.splitlines() == [
        "bl: #1 checks.web failed",
        "bl: 2 more failed: bl --failed 1",
    ]
    ran = await house.run("bl", "last", "api", "-n", "2")
    assert ran.out.splitlines() == ["api> 498", "api> 499"]
    assert (await house.run("bl", "api", "-n", "2")).out == ran.out
    ran = await house.run("bl", "1", "--failed", "-n", "1")
    assert ran.out.splitlines() == ["web> 499", "api> 499", "does not evaluate"]
    ran = await house.run("bl", "1", "--all", "-n", "3")
    assert ran.out.splitlines() == ["api> 498", "web> 499", "api> 499"]
    ran = await house.run("bl", "1", "--all", "--raw")
    assert ran.out.encode() == MIXED
    ran = await house.run("bl", "1", "--all", "--grep", "^(web|api)> 49[89]$")
    assert ran.out.splitlines() == ["web> 498", "api> 498", "web> 499", "api> 499"]
    ran = await house.run("bl", "1", "checks.")
    assert (ran.code, "checks.web, checks.api" in ran.err) == (2, True)


async def test_terminal_shows_the_end(house: House) -> None:
    await house.served.add(1, BuildState.SUCCEEDED, log=MIXED)
    head, *lines = (await house.on_terminal("bl", NO_COLOR="1")).out.splitlines()
    assert head == "── #1 ✓ succeeded 16m 40s · last 200 lines"
    assert lines == MIXED.decode().splitlines()[-200:]
    head, *lines = (await house.on_terminal("bl", "-n", "20000")).out.splitlines()
    assert "last" not in head
    assert lines == MIXED.decode().splitlines()


async def test_follow_shows_the_end_and_what_comes(house: House) -> None:
    number = await house.served.add(1, BuildState.RUNNING, log=MIXED)
    process = await house.start("bl", "-f", "-n", "2", "--raw")
    assert process.stdout is not None
    assert await process.stdout.readline() == b"web> 499\n"
    house.append(number, b"more\n")
    await house.served.finish(number, BuildState.SUCCEEDED)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"api> 499\nmore\n")


async def test_a_line_without_an_end_does_not_fill_the_memory(house: House) -> None:
    size = 3 * 1024 * 1024
    await house.served.add(1, BuildState.SUCCEEDED, log=b"x" * size)
    ran = await house.run("bl")
    assert len(ran.out.replace("\n", "")) == size
    assert ran.out.count("\n") > 1


async def test_a_reader_who_has_seen_enough(house: House) -> None:
    await house.served.add(1, BuildState.FAILED, log=MIXED * 100)
    process = await house.start("bl", "--all")
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert b"Broken" not in await process.stderr.read()
    assert await process.wait() == 0
