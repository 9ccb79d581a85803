"""A small history with something of everything in it, for looking at."""

from __future__ import annotations

import sqlite3
import time

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


# Seconds since each build ended, and how long it took; since the others were queued, and
# began. Half a minute from where the wording of an age changes.
ENDED = {
    409: (3.5 * 24 * HOUR, 3 * HOUR + 600),
    410: (26.5 * HOUR, 192.16),
    411: (25.5 * HOUR, 192.16),
    412: (6.5 * 60, 192.16),
    413: (5.5 * 60, 192.16),
    414: (4.5 * 60, 192.16),
}
BEGUN = {415: (HOUR + 90, HOUR + 30), 416: (2 * HOUR + 30, None)}


async def date(house: House) -> None:
    """Let all of it have happened as long before now as at the beginning."""
    await house.served.database.write(_date)


async def fill(house: House) -> None:
    """Builds 409 to 416; their ages say the same for half a minute, see `date`."""
    await house.served.database.write(_count_from, FIRST)
    add = house.served.add
    good = (_good("packages.default", 8.0), _good("checks.fmt", 1.0))
    others = [
        Target(f"checks.{name}", BuildState.CANCELLED) for name in ("api", "load")
    ]
    await add(
        0x5E5E5E5,
        BuildState.SUCCEEDED,
        targets=good,
        title="fix typo",
        summary="2 targets built",
    )
    await add(
        0x77AA012,
        BuildState.FAILED,
        targets=(_bad("checks.web-test", 99.0, "expected 200, got 404"), *good),
        title=LONG_TITLE,
        log=LOG,
    )
    await add(
        0x3C3C3C3,
        BuildState.CANCELLED,
        title="wip",
        summary="cancelled: 1a2b3c4 is newer",
    )
    await add(
        0x1A2B3C4,
        BuildState.FAILED,
        targets=(*good, WEB_TEST, *others),
        title="web: add page",
        log=LOG + TRACE,
    )
    await add(
        0xD15CF11,
        BuildState.ERROR,
        title="nixos: more disk",
        summary=FULL_DISK,
        branch="main",
    )
    await add(
        0xBADC0DE,
        BuildState.FAILED,
        title=HOSTILE,
        summary="error: attribute 'foo' missing\n  at flake.nix:12:3\x1b[0m\x9b2J",
        branch="feature/a-branch-with-quite-a-long-name",
    )
    build = await add(
        0x9F3C2E1,
        BuildState.RUNNING,
        targets=(Target("checks.web-test", BuildState.RUNNING), good[1]),
        title="docs: say more",
    )
    await house.served.database.write(_say, build, "building: 3 of 14 derivations")
    await add(0xC0FFEE1, title="one more")
    await date(house)


def _count_from(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "INSERT INTO sqlite_sequence (name, seq) VALUES ('builds', ?)", (number - 1,)
    )


def _date(connection: sqlite3.Connection) -> None:
    now = time.time()

    def at(ago: float | None) -> int | None:
        return None if ago is None else int((now - ago) * 1000)

    for build, (ago, took) in ENDED.items():
        connection.execute(
            "UPDATE builds SET queued_at = ?, started_at = ?, finished_at = ?, "
            "seconds = ? WHERE number = ?",
            (at(ago + 9000), at(ago + 8000), at(ago), took, build),
        )
    for build, (queued, started) in BEGUN.items():
        connection.execute(
            "UPDATE builds SET queued_at = ?, started_at = ? WHERE number = ?",
            (at(queued), at(started), build),
        )


def _say(connection: sqlite3.Connection, build: int, summary: str) -> None:
    connection.execute(
        "UPDATE builds SET summary = ? WHERE number = ?", (summary, build)
    )
