"""`$?` for every state and every refusal: shells, prompts and histories rely on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ci.config import Secrets
from ci.history.requests import Request
from ci.models import BuildState
from tests.client.conftest import House
from tests.client.programs import Programs, Ran
from tests.serve.desk import desk

CODES = {
    BuildState.QUEUED: 8,
    BuildState.RUNNING: 8,
    BuildState.SUCCEEDED: 0,
    BuildState.FAILED: 1,
    BuildState.ERROR: 7,
    BuildState.CANCELLED: 3,
    BuildState.SKIPPED: 3,
}
FINAL = [state for state in BuildState if state.final]


async def test_status_reflects_the_state(house: House) -> None:
    numbers = [str(await _add(house, state)) for state in BuildState]
    for argv in (["bs"], ["bs", "-1"], ["build-status", "--json"]):
        ran = await house.run_all([*argv, number] for number in numbers)
        assert [each.code for each in ran] == [CODES[state] for state in BuildState]
    ran = await house.run_all(["bs", "--exit-zero", number] for number in numbers)
    assert {each.code for each in ran} == {0}


async def test_waiting_for_what_has_ended_is_its_result(house: House) -> None:
    numbers = [str(await _add(house, state)) for state in FINAL]
    codes = [CODES[state] for state in FINAL]
    for argv, expected in (
        (["bs", "-w"], codes),
        (["bl", "-f"], codes),
        (["bl"], [0] * len(FINAL)),
        (["bt"], [0] * len(FINAL)),
        (["bt", "-w"], codes),
    ):
        async with desk(house.served, _ended):
            ran = await house.run_all([*argv, number] for number in numbers)
        assert [each.code for each in ran] == expected, argv


async def _add(house: House, state: BuildState) -> int:
    log = None if state in (BuildState.QUEUED, BuildState.SKIPPED) else b"x> y\n"
    return await house.served.add(list(BuildState).index(state) + 1, state, log=log)


def _ended(request: Request) -> Mapping[str, Any]:
    """For tests only: the branch asked for is the number of the build."""
    return {
        "status": "already_built",
        "message": "it has ended",
        "build": int(request.body["ref"]),
    }


async def test_printing_the_log_of_what_runs_is_no_failure(house: House) -> None:
    number = str(await house.served.add(1, BuildState.RUNNING, log=b"x> y\n"))
    ran = await house.run("bl", number)
    assert (ran.code, ran.out) == (0, "x> y\n")
    assert "bl -f 1" in ran.err


async def test_a_build_that_waits_has_no_log_yet(house: House) -> None:
    number = str(await house.served.add(1))
    ran = await house.run("bl", number)
    assert (ran.code, ran.out) == (8, "")
    assert "queued" in ran.err


USAGE = [
    ["bs", "--nonsense"],
    ["bs", "--json=nonsense", "1"],
    ["bs", "-w", "-1"],
    ["bs", "http://build-server:8000/health"],
    ["bl", "--raw", "--grep", "x"],
    ["bl", "-n", "0"],
    ["bl", "--grep", "("],
    ["bl", "1", "checks", "--all"],
    ["bt", "-f", "--json"],
    ["bt", "--json=nonsense"],
    ["build-client"],
    ["build-client", "frobnicate"],
    ["build-client", "cancel"],
    ["build-client", "history", "--since", "yesterday"],
    ["build-client", "history", "--status", "great"],
    ["build-client", "completion"],
    ["build-client", "completion", "tcsh"],
    ["bs", "--timeout", "0"],
    ["bs", "--server", "ftp://x/"],
    ["bs", "--server", "http://user:secret@x/"],
    ["bs", "--server", "unix:relative"],
    ["bt", "--target", "no such pattern"],
    ["bt", "-R", "owner/name", "-w", "a..b"],
]
NOT_FOUND = [
    ["bs", "99"],
    ["bs", "nobranch"],
    ["bs", "feedfacefeedface"],
    ["bs", "-R", "owner/other"],
    ["bs", "http://build-server:8000/commits/feedface"],
    ["bl", "99"],
    ["bl", "1", "checks.none"],
    ["bl", "1", "--failed"],
    ["bl", "-2"],
    ["bt", "-R", "owner/other"],
    ["build-client", "cancel", "99"],
    ["build-client", "open", "99"],
    ["build-client", "queue", "-R", "owner/other"],
    ["build-client", "history", "-R", "owner/other"],
]


async def test_usage(house: House) -> None:
    await house.served.add(1, BuildState.FAILED, log=b"")
    for argv, ran in zip(USAGE, await house.run_all(USAGE), strict=True):
        assert (ran.code, ran.out) == (2, ""), (argv, ran)
        assert argv[0] in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["bs", "--jsn"], "--jsn; did you mean --json?"),
        (["bs", "--fial-fast", "1"], "--fial-fast; did you mean --fail-fast?"),
        (["bl", "--folow=1"], "--folow=1; did you mean --follow?"),
        (["build-client", "--sever", "x"], "--sever; did you mean --server?"),
        (["build-client", "hist"], "no verb 'hist'; did you mean history?"),
        (["build-client", "zzz"], "no verb 'zzz'; there are trigger, status, logs"),
        (["bs", "1", "2"], "unrecognized arguments: 2\n"),
    ],
)
async def test_who_mistypes_is_told_what_is_near(
    programs: Programs, argv: list[str], said: str
) -> None:
    ran = await programs.run(*argv)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


async def test_not_found(house: House) -> None:
    await house.served.add(1, BuildState.SUCCEEDED, log=b"")
    for argv, ran in zip(NOT_FOUND, await house.run_all(NOT_FOUND), strict=True):
        assert _failed(ran) == 5, argv


async def test_nothing_built_yet(house: House) -> None:
    assert _failed(await house.run("bs")) == 5
    history = await house.run("build-client", "history", "--json")
    assert (history.code, json.loads(history.out)) == (0, [])


async def test_not_allowed_in_this_state(house: House) -> None:
    ended = str(await house.served.add(1, BuildState.FAILED))
    waits = str(await house.served.add(2))
    for argv in (["cancel", ended], ["retry", waits]):
        ran = await house.run("build-client", *argv)
        assert _failed(ran) == 4
        assert "build " + argv[1] in ran.err


async def test_pins(house: House) -> None:
    failed = str(await house.served.add(1, BuildState.FAILED))
    number = str(await house.served.add(2, BuildState.SUCCEEDED))
    ran = await house.run("build-client", "pin", failed)
    assert _failed(ran) == 4
    assert "retry it, then pin it" in ran.err
    for verb, pinned in (("pin", True), ("unpin", False)):
        ran = await house.run("build-client", verb, number, "--json=number,pinned")
        assert ran.code == 0
        assert json.loads(ran.out) == {"number": int(number), "pinned": pinned}
    shown = await house.on_terminal("build-client", "pin", number)
    assert (shown.code, "it is kept" in shown.out) == (0, True)
    assert f"build-client unpin {number}" in shown.out
    assert "pinned" in (await house.on_terminal("bs", number)).out


async def test_the_token(house: House) -> None:
    await house.close()
    house.served.secrets = Secrets(api_token="open-sesame")
    await house.open()
    number = await house.served.add(1)
    path = house.directory / "token"
    assert (await house.run("bs")).code == 8
    ran = await house.run("bt")
    assert _failed(ran) == 4
    assert "BUILD_SERVER_TOKEN_FILE" in ran.err
    path.write_text("xyzzy\n")
    ran = await house.run("bt", BUILD_SERVER_TOKEN_FILE=str(path))
    assert _failed(ran) == 4
    path.write_text("open-sesame\n")
    async with desk(house.served, lambda request: _queued(number)):
        said = await house.run("bt", "-v", BUILD_SERVER_TOKEN_FILE=str(path))
    assert said.code == 0
    for secret in ("xyzzy", "sesame"):
        assert secret not in ran.err + said.err + said.out


@pytest.mark.parametrize("content", [None, b"", b"two lines\nof it", b"\xff"])
async def test_a_token_file_that_cannot_be_used(
    house: House, content: bytes | None
) -> None:
    token = house.directory / "token"
    if content is not None:
        token.write_bytes(content)
    ran = await house.run("bt", BUILD_SERVER_TOKEN_FILE=str(token))
    assert _failed(ran) == 2
    assert str(token) in ran.err


@pytest.mark.parametrize(("status", "code"), [(404, 5), (502, 7), (503, 7), (409, 4)])
async def test_refused_triggers(house: House, status: int, code: int) -> None:
    refusal = {"error": "so it is\x1b[31m", "status_code": status, "detail": {}}
    async with desk(house.served, lambda request: refusal):
        ran = await house.run("bt")
    assert (ran.code, ran.err) == (code, "bt: so it is\\x1b[31m\n")


def _queued(number: int) -> dict[str, Any]:
    return {"status": "triggered", "message": "queued", "build": number}


def _failed(ran: Ran) -> int:
    """The code of what failed, as everything must: one line on stderr, none on stdout."""
    assert (ran.out, ran.err.count("\n")) == ("", 1), ran
    return ran.code
