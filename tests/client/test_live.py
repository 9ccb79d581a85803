"""Waiting on a terminal: what its reader sees meanwhile, and what is left afterwards."""

from __future__ import annotations

import re
import signal

import pytest

from ci.models import BuildState, Target
from tests.client.conftest import House
from tests.client.programs import LINES, Ran, Terminal

WIDE = "日本語の誤り " * 12
NAMES = ("packages.default", "checks.web-test", "checks.fmt", "checks.api")
FAILED = ("checks.web-test", "failed", "got 500\nmore of it")
SPINNER = re.compile("[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏]")


async def _build(house: House, count: int = len(NAMES)) -> int:
    running = tuple(
        Target(name, BuildState.RUNNING if index < 2 else BuildState.QUEUED)
        for index, name in enumerate(NAMES[:count])
    )
    number = await house.served.add(
        1, BuildState.RUNNING, targets=running, title="live", log=b"default> linking\n"
    )
    # So that it says `1m` for almost a minute.
    await house.retime(number, queued=200, started=62)
    return number


async def _sees(terminal: Terminal, *texts: str) -> list[str]:
    return await terminal.sees(lambda lines: all(_in(lines, text) for text in texts))


def _in(lines: list[str], text: str) -> bool:
    return any(text in line for line in lines)


def _settled(terminal: Terminal, ran: Ran, *, shrunk: bool = False) -> None:
    """The terminal is as a shell wants it, whatever ended the command.

    One that was `shrunk` may have scrolled a frame away that was on its way to it.
    """
    assert not terminal.screen.cursor.hidden
    shown = terminal.shown
    assert b"\x1b[?1049" not in shown
    assert shown.count(b"\x1b[?2026h") == shown.count(b"\x1b[?2026l") > 0
    assert shown.count(b"\x1b[?7l") == shown.count(b"\x1b[?7h")
    left = terminal.lines if shrunk else terminal.scrolled
    assert not any(SPINNER.search(line) for line in left), ran.out


async def test_what_ended_scrolls_away_and_nothing_else_is_left(house: House) -> None:
    number = await _build(house)
    terminal = await house.open_terminal("bs", "-w", NO_COLOR="1")
    shown = await _sees(terminal, "packages.default", "linking")
    assert re.fullmatch(
        r" #1 running · ✓ 0 ✗ 0 ● 2 ◌ 2 · 1m \d+s(?: · ≈ .* left)?", shown[0]
    )
    # The log's line is its own, so it stands below it, without its name.
    where = next(n for n, line in enumerate(shown) if "packages.default" in line)
    assert shown[where + 1] == "     linking"
    assert terminal.screen.cursor.hidden
    await house.end_target(number, "packages.default", "succeeded", "")
    shown = await _sees(terminal, "✓ packages.default  8s", "✓ 1 ✗ 0")
    assert shown[0] == "✓ packages.default  8s"
    terminal.resize(50)
    await house.end_target(number, *FAILED)
    await _sees(terminal, "got 500", "✓ 1 ✗ 1")
    terminal.resize(100, 40)
    await house.end_target(number, "checks.fmt", "failed", WIDE)
    await _sees(terminal, "日本語", "✓ 1 ✗ 2")
    await house.end_target(number, "checks.api", "cancelled", "")
    await _sees(terminal, "⊘ checks.api  8s")
    await house.served.finish(number, BuildState.FAILED)
    ran = await terminal.end()
    _settled(terminal, ran)
    block = (await house.on_terminal("bs", columns=100, NO_COLOR="1")).out.splitlines()
    ended = terminal.scrolled
    assert ran.code == 1
    assert ended[:2] == ["✓ packages.default  8s", "✗ checks.web-test  8s  got 500"]
    assert ended[2].startswith("✗ checks.fmt  8s  日")
    assert ended[3] == "⊘ checks.api  8s"
    assert [re.sub(" · .*ago|just now", "", line) for line in ended[4:]] == [
        re.sub(" · .*ago|just now", "", line) for line in block
    ]


@pytest.mark.parametrize("columns", [40, 20, 6])
async def test_narrow(house: House, columns: int) -> None:
    number = await _build(house)
    terminal = await house.open_terminal("bs", "-w", columns=columns, NO_COLOR="1")
    shown = await terminal.sees(
        lambda lines: _in(lines, "● 2" if columns > 20 else "#1")
    )
    if columns == 40:
        assert re.fullmatch(r" #1 running? ?·? ?.*● 2.*1m \d+s", shown[0]), shown
    await house.end_target(number, *FAILED)
    await terminal.sees(lambda lines: _in(lines, "✗"))
    await house.served.finish(number, BuildState.FAILED)
    _settled(terminal, await terminal.end())


async def test_at_most_a_third_of_the_height(house: House) -> None:
    targets = tuple(
        Target(f"checks.number-{index}", BuildState.RUNNING) for index in range(40)
    )
    number = await house.served.add(1, BuildState.RUNNING, targets=targets, log=b"a\n")
    terminal = await house.open_terminal("bs", "-w", NO_COLOR="1")
    shown = await _sees(terminal, "… and", "     a")
    assert len(shown) == LINES // 3
    assert "… and 35 more" in shown[-2]
    terminal.resize(80, 40)
    await terminal.sees(lambda lines: len(lines) == 40 // 3)
    terminal.resize(80, 2)
    await terminal.sees(lambda lines: len(lines) == 1)
    await house.served.finish(number, BuildState.SUCCEEDED)
    _settled(terminal, await terminal.end(), shrunk=True)


@pytest.mark.parametrize(("keys", "code"), [(b"\x03", 130), (b"", 143)])
async def test_the_cursor_is_back_whatever_ends_it(
    house: House, keys: bytes, code: int
) -> None:
    await _build(house)
    terminal = await house.open_terminal("bs", "-w")
    await _sees(terminal, "packages.default")
    if keys:
        terminal.type(keys)
    else:
        terminal.process.send_signal(signal.SIGTERM)
    ran = await terminal.end()
    assert ran.code == code
    _settled(terminal, ran)
    said = ["bs: detached: #1 goes on. Again: bs -w 1"] if keys else []
    assert terminal.scrolled == said


async def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(
    house: House,
) -> None:
    number = await _build(house)
    terminal = await house.open_terminal("bs", "-w")
    await _sees(terminal, "packages.default")
    # No shell is its parent, so the kernel does not stop it: it goes on at once.
    terminal.process.send_signal(signal.SIGTSTP)
    await terminal.shows("\x1b[?25h")
    await _sees(terminal, "packages.default")
    await house.served.finish(number, BuildState.SUCCEEDED)
    _settled(terminal, await terminal.end())


async def test_a_server_that_restarts_is_waited_for_below(house: House) -> None:
    number = await _build(house)
    terminal = await house.open_terminal("bs", "-w", NO_COLOR="1")
    await _sees(terminal, "packages.default")
    await house.close()
    await _sees(terminal, "trying again", "packages.default")
    await house.open()
    await _sees(terminal, "is back", "packages.default")
    await house.served.finish(number, BuildState.SUCCEEDED)
    ran = await terminal.end()
    assert ran.code == 0
    _settled(terminal, ran)
