"""A small history with something of everything in it, for looking at."""

from __future__ import annotations

import sqlite3

from ci.models import BuildState, Target
from tests.client.conftest import House

FIRST = 409
HOUR = 3600.0
OUT = {"out": "/nix/store/00000000000000000000000000000000-out"}
LONG_TITLE = (
    "flake: bump nixpkgs, home-manager and everything else that has moved meanwhile"
)
HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J\u202eevil\r\nforged: ✓ #1 日本語の題名はここまで続きます"
)
FULL_DISK = (
    "no space left on device: /nix/store has 12 MiB free and this build needs about "
    "4 GiB; collect garbage, or give the store more room"
)


def _good(name: str, seconds: float) -> Target:
    return Target(name, BuildState.SUCCEEDED, seconds, None, OUT)


def _bad(name: str, seconds: float, error: str) -> Target:
    derivation = f"/nix/store/00000000000000000000000000000000-{name.split('.')[1]}.drv"
    return Target(name, BuildState.FAILED, seconds, error, None, derivation)


WEB_TEST = _bad(
    "checks.web-test",
    100.0,
    "builder failed with exit code 1: AssertionError: expected 200, got 500",
)
LOG = b"".join(
    b"web-test> request %d\nhello> compiling %d\n" % (number, number)
    for number in range(300)
)
TRACE = (
    b"web-test> Traceback (most recent call last):\n"
    b'web-test>   File "page.py", line 12, in test_page\n'
    b"web-test> AssertionError: expected 200, got 500\n"
)


async def fill(house: House) -> None:
    """Builds 409 to 416; ages are far from where their wording changes."""
    await house.served.database.write(_count_from, FIRST)
    add = house.served.add
    good = (_good("packages.default", 8.0), _good("checks.fmt", 1.0))
    others = [
        Target(f"checks.{name}", BuildState.CANCELLED) for name in ("api", "load")
    ]
    build = await add(
        0x5E5E5E5,
        BuildState.SUCCEEDED,
        targets=good,
        title="fix typo",
        summary="2 targets built",
    )
    await _date(house, build, 3.5 * 24 * HOUR, took=3 * HOUR + 600)
    build = await add(
        0x77AA012,
        BuildState.FAILED,
        targets=(_bad("checks.web-test", 99.0, "expected 200, got 404"), *good),
        title=LONG_TITLE,
        log=LOG,
    )
    await _date(house, build, 26.5 * HOUR)
    build = await add(
        0x3C3C3C3,
        BuildState.CANCELLED,
        title="wip",
        summary="cancelled: 1a2b3c4 is newer",
    )
    await _date(house, build, 25.5 * HOUR)
    build = await add(
        0x1A2B3C4,
        BuildState.FAILED,
        targets=(*good, WEB_TEST, *others),
        title="web: add page",
        log=LOG + TRACE,
    )
    await _date(house, build, 6.5 * 60)
    build = await add(
        0xD15CF11,
        BuildState.ERROR,
        title="nixos: more disk",
        summary=FULL_DISK,
        branch="main",
    )
    await _date(house, build, 5.5 * 60)
    build = await add(
        0xBADC0DE,
        BuildState.FAILED,
        title=HOSTILE,
        summary="error: attribute 'foo' missing\n  at flake.nix:12:3\x1b[0m\x9b2J",
        branch="feature/a-branch-with-quite-a-long-name",
    )
    await _date(house, build, 4.5 * 60)
    build = await add(
        0x9F3C2E1,
        BuildState.RUNNING,
        targets=(Target("checks.web-test", BuildState.RUNNING), good[1]),
        title="docs: say more",
    )
    await house.retime(build, queued=HOUR + 90, started=HOUR + 30)
    await house.served.database.write(_say, build, "building: 3 of 14 derivations")
    build = await add(0xC0FFEE1, title="one more")
    await house.retime(build, queued=2 * HOUR + 30)


async def _date(house: House, build: int, ago: float, took: float = 192.16) -> None:
    await house.retime(build, queued=ago + 9000, started=ago + 8000, finished=ago)
    await house.served.database.write(_took, build, took)


def _count_from(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('builds', ?)", (number - 1,)
    )


def _took(connection: sqlite3.Connection, build: int, seconds: float) -> None:
    connection.execute(
        "UPDATE builds SET seconds = ? WHERE number = ?", (seconds, build)
    )


def _say(connection: sqlite3.Connection, build: int, summary: str) -> None:
    connection.execute(
        "UPDATE builds SET summary = ? WHERE number = ?", (summary, build)
    )
