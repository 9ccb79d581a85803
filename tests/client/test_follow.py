"""Following a log through silence, lost servers and new attempts."""

from __future__ import annotations

import sqlite3
import sys

import pytest

from ci.models import BuildState, Target
from tests.client.conftest import House
from tests.client.programs import end_of, hint_with, next_hint, next_line
from tests.fakes.waiting import wait_until
from tests.serve.desk import desk

NOISE = b"\x1b[31mred\x1b[0m \xff\x00 half a line"


async def _running(house: House, log: bytes) -> int:
    return await house.served.add(1, BuildState.RUNNING, log=log)


async def test_follow_is_the_log_and_then_the_result(house: House) -> None:
    number = await house.served.add(1)
    answer = {"status": "triggered", "message": "it is queued", "build": number}
    async with desk(house.served, lambda request: answer):
        process = await house.start("bt", "-f")
        assert await next_hint(process) == "bt: it is queued\n"
    await house.served.begin(number)
    for text in ("one\n", "two\n"):
        house.append(number, text.encode())
        assert await next_line(process) == text
    house.append(number, NOISE)
    await house.served.finish(number, BuildState.FAILED)
    ran = await end_of(process)
    assert (ran.code, ran.out) == (1, "red \\xff^@ half a line\n")
    assert ran.err == f"bt: #{number} failed\n"


@pytest.mark.parametrize("raw", [True, False])
async def test_a_lost_connection_loses_nothing_and_repeats_nothing(
    house: House, raw: bool
) -> None:
    number = await _running(house, log=b"first\n")
    process = await house.start("bl", "-f", *(["--raw"] if raw else []))
    assert await next_line(process) == "first\n"
    house.append(number, b"begun ")
    await house.close()
    await hint_with(process, "trying again for 60 s")
    house.append(number, b"and ended\n" + NOISE + b"\n" * 3)
    await house.open()
    await house.served.finish(number, BuildState.SUCCEEDED)
    ran_out, ran_err = await process.communicate()
    whole = house.served.log_path(number).read_bytes()
    if raw:
        assert b"first\n" + ran_out == whole
    else:
        assert ran_out.decode().startswith("begun and ended\nred ")
    assert process.returncode == 0
    assert b"is back after" in ran_err


async def test_the_lines_of_one_target_come_once(house: House) -> None:
    derivation = "/nix/store/00000000000000000000000000000000-web.drv"
    web = Target("checks.web", BuildState.RUNNING, derivation=derivation)
    number = await house.served.add(
        1, BuildState.RUNNING, targets=(web,), log=b"api> 1\nweb> 1\nweb> 2\n"
    )
    process = await house.start("bl", "-f", "web")
    assert [await next_line(process) for _ in range(2)] == ["web> 1\n", "web> 2\n"]
    await house.close()
    house.append(number, b"api> 2\nweb> 3\n")
    await house.open()
    assert await next_line(process) == "web> 3\n"
    await house.served.finish(number, BuildState.SUCCEEDED)
    ran = await end_of(process)
    assert (ran.code, ran.out) == (0, "")


async def test_a_connection_lost_before_the_first_byte(house: House) -> None:
    """The attempt that was waited for has come and gone meanwhile."""
    number = await house.served.add(1)
    process = await house.start("bl", "-f", "--raw")
    assert "queued" in await next_hint(process)
    await wait_until(house.followers)
    await house.close()
    assert "trying again" in await next_hint(process)
    await house.served.begin(number)
    house.append(number, b"first try\n")
    await house.served.put_back(number)
    await house.served.database.write(_due, number)
    await house.served.begin(number)
    house.append(number, b"second ", attempt=2)
    await house.open()
    assert "is back" in await next_hint(process)
    assert process.stdout is not None
    assert await process.stdout.readexactly(7) == b"second "
    await house.close()
    assert "trying again" in await next_hint(process)
    house.append(number, b"try\n", attempt=2)
    await house.open()
    assert await next_line(process) == "try\n"
    await house.served.database.write(_succeed, number)
    house.served.wake()
    ran = await end_of(process)
    assert (ran.code, ran.out) == (0, "")


async def test_follow_goes_on_with_the_next_attempt(house: House) -> None:
    number = await _running(house, log=b"")
    process = await house.start("bl", "-f")
    house.append(number, b"first try\n")
    assert await next_line(process) == "first try\n"
    await house.served.put_back(number)
    await house.served.database.write(_due, number)
    await house.served.begin(number)
    house.append(number, b"second try\n", attempt=2)
    assert await next_line(process) == "second try\n"
    await house.served.database.write(_succeed, number)
    house.served.hub.finished(house.served.log_path(number, 2))
    house.served.wake()
    assert (await end_of(process)).code == 0


def _due(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("UPDATE builds SET not_before = 0 WHERE number = ?", (number,))


def _succeed(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "UPDATE builds SET state = 'succeeded', finished_at = 1 WHERE number = ?",
        (number,),
    )


async def test_a_silent_log_is_asked_for_anew_and_shows_a_sign_of_life(
    house: House,
) -> None:
    number = await _running(house, log=b"first\n")
    script = house.directory / "impatient"
    script.write_text(IMPATIENT.format(python=sys.executable))
    script.chmod(0o755)
    process = await house.start("impatient", house.url, str(number))
    assert await next_line(process) == "first\n"
    # A server that does not answer within that silence is lost first, and found again.
    await hint_with(process, f"#{number} running")
    house.append(number, b"last\n")
    assert await next_line(process) == "last\n"
    await house.served.finish(number, BuildState.ERROR)
    ran = await end_of(process)
    assert (ran.code, ran.out) == (0, "error\n")


IMPATIENT = """#!{python}
import sys
from ci.client.address import Address
from ci.client.api import Api
from ci.client.follow import Reader
from ci.client.http import Server
from ci.client.patience import Heartbeat, Patience
from ci.client.printers import Raw
from ci.client.terminal import Screen

screen = Screen("impatient", {{}})
server = Server(
    Address(sys.argv[1], "test"),
    timeout=5,
    token=lambda: None,
    trace=screen.trace,
    silence=0.2,
)
api = Api(server)
reader = Reader(api, api.build(int(sys.argv[2])), Raw(screen.out))
patience, heartbeat = Patience(screen.hint), Heartbeat(0.2, screen.hint)
print(reader.follow(patience=patience, heartbeat=heartbeat).state)
server.close()
"""
