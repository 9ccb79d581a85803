"""`bl -t`: when each line was written, in every form and over cut connections."""

from __future__ import annotations

import asyncio
import json
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ci.adapters.logs import LogWriter, stamp
from ci.client.times import Times
from ci.models import BuildState, Target
from tests.client.conftest import House
from tests.client.older import older
from tests.client.programs import end_of, hint_with, next_line

BEGINNING = 1_795_132_800_000
LIMIT = 1 << 30
WEB = Target(
    "checks.web",
    BuildState.FAILED,
    1.0,
    "no",
    None,
    "/nix/store/00000000000000000000000000000000-web.drv",
)
# Each line a second after the one before it.
LOG = ("api> 1", "web> 2", "web> - 3", "web> \x1b[31m4\x1b[0m", "", "web> 5")
TIMED = [
    f"2026-11-20T00:00:0{second}.0Z {line}"
    for second, line in enumerate(re.sub(r"\x1b\[\d+m", "", line) for line in LOG)
]


def write(path: Path) -> None:
    now = BEGINNING
    with LogWriter(path, LIMIT, clock=lambda: now * 1_000_000) as log:
        for line in LOG:
            log.write(f"{line}\n".encode())
            now += 1000


@pytest.fixture
async def number(house: House) -> str:
    build = await house.served.add(1, BuildState.FAILED, targets=(WEB,), log=b"")
    await asyncio.to_thread(write, house.served.log_path(build))
    return str(build)


async def test_times_stand_before_the_lines(house: House, number: str) -> None:
    async def lines(*argv: str) -> list[str]:
        ran = await house.run("bl", "-q", number, *argv)
        assert (ran.code, ran.err) == (0, "")
        return ran.out.splitlines()

    own = [line for line in TIMED if " web> " in line]
    assert await lines("-t", "--all") == TIMED
    assert await lines("--timestamps", "--all", "-n", "2") == TIMED[-2:]
    assert await lines("-t") == own
    assert await lines("web", "-t", "-n", "1") == own[-1:]
    # The line is looked through, not its time.
    assert await lines("-t", "--all", "--grep", "[45]$") == [TIMED[3], TIMED[5]]
    assert await lines("-t", "--all", "--grep", "2026") == []
    assert await lines("-t", "--all", "--grep", "^web", "-n", "1") == TIMED[-1:]


async def test_times_as_json(house: House, number: str) -> None:
    ran = await house.run("bl", "-q", "-t", "--json", "--all", number)
    found = [json.loads(line) for line in ran.out.splitlines()]
    assert [(each["time"], each["line"]) for each in found] == [
        (shown.partition(" ")[0], line) for shown, line in zip(TIMED, LOG, strict=True)
    ]
    assert {each["build"] for each in found} == {1}
    ran = await house.run("bl", "-q", "--json", "--all", number)
    assert "time" not in json.loads(ran.out.splitlines()[0])


async def test_times_on_a_terminal(house: House, number: str) -> None:
    shown = (await house.on_terminal("bl", "-t", "--all", number)).out.splitlines()
    assert shown[1] == f"\x1b[2m{TIMED[0][:22]}\x1b[0m {LOG[0]}"
    assert shown[4].endswith(f" {LOG[3]}\x1b[0m")


async def test_bytes_have_no_times(house: House, number: str) -> None:
    ran = await house.run("bl", "-t", "--raw", number)
    assert (ran.code, ran.err) == (2, "bl: --raw has no lines, so -t can date none\n")


async def test_a_log_without_times_says_so(house: House) -> None:
    await house.served.add(2, BuildState.SUCCEEDED, log=b"one\ntwo\n")
    ran = await house.run("bl", "-t")
    assert ran.out.splitlines() == [f"{'-':<22} one", f"{'-':<22} two"]
    assert ran.err.splitlines()[-1] == "bl: the server kept no times of this log"
    ran = await house.run("bl", "-q", "-t", "--json")
    assert json.loads(ran.out.splitlines()[0])["time"] is None


async def test_a_server_that_is_too_old_for_times(house: House, number: str) -> None:
    async with older(house.url) as url:
        for argv in (["-t"], ["-t", "--json", "--all"], ["-t", "-n", "2"]):
            ran = await house.run("bl", "-q", "--server", url, *argv, number)
            sentence = "bl: this server is too old to tell times; leave out -t\n"
            assert (ran.code, ran.out, ran.err) == (2, "", sentence)


async def test_lines_that_come_have_times(house: House) -> None:
    build = await house.served.add(1, BuildState.RUNNING, targets=(WEB,), log=b"")
    path = house.served.log_path(build)
    began = stamp(int(time.time() * 1000) // 100 * 100)
    with LogWriter(path, LIMIT, house.served.hub) as log:
        log.write(b"first\n")
        process = await house.start("bl", "-f", "-t")
        assert (await next_line(process)).endswith("Z first\n")
        log.write(b"begun ")
        log.write(b"web> now ")
        await house.close()
        await hint_with(process, "trying again")
        log.write(b"and ended\nlast")
        await house.open()
        ended = await next_line(process)
        assert ended.endswith("Z begun web> now and ended\n")
    await house.served.finish(build, BuildState.SUCCEEDED)
    ran = await end_of(process)
    assert ran.code == 0
    assert re.fullmatch(r"\S+Z last\n", ran.out)
    assert began <= ended.partition(" ")[0] <= ran.out.partition(" ")[0]


async def test_one_target_comes_once_with_its_times(house: House) -> None:
    build = await house.served.add(1, BuildState.RUNNING, targets=(WEB,), log=b"")
    with LogWriter(house.served.log_path(build), LIMIT, house.served.hub) as log:
        log.write(b"api> 1\nweb> 1\nweb> 2\n")
        process = await house.start("bl", "-f", "-t", "web")
        for expected in ("web> 1", "web> 2"):
            assert re.fullmatch(rf"\S+Z {expected}\n", await next_line(process))
        await house.close()
        log.write(b"api> 2\nweb> 3\n")
        await house.open()
        assert re.fullmatch(r"\S+Z web> 3\n", await next_line(process))
    await house.served.finish(build, BuildState.SUCCEEDED)
    assert (await end_of(process)).out == ""


LINES = st.lists(
    st.tuples(
        st.sampled_from(["-", "2026-11-20T00:00:00.0Z", "2026-11-20T00:00:01Z"]),
        st.sampled_from(
            [b"", b"- x", b"plain", b"  two spaces", b"2026 a date", b"\xff"]
        ),
    ),
    max_size=6,
)


@given(
    lines=LINES,
    end=st.sampled_from([b"", b"\n"]),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    begins=st.booleans(),
)
def test_however_it_is_cut_times_come_off(
    lines: list[tuple[str, bytes]], end: bytes, cuts: list[int], begins: bool
) -> None:
    front = [] if begins else [b"rest of a line"]
    sent = [*front, *(at.encode() + b" " + line for at, line in lines)]
    whole = [*front, *(line for _, line in lines)]
    if not end and lines and not lines[-1][1]:
        # A line of which nothing has come has no time yet.
        sent.pop()
        whole.pop()
        lines = lines[:-1]
        end = b"\n" if whole else b""
    data = b"\n".join(sent) + (end if sent else b"")
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    taken = Times(begins=begins)
    found = [taken.take(data[a:b]) for a, b in pairwise(bounds)]
    assert b"".join(text for text, _ in found) == b"\n".join(whole) + (
        end if whole else b""
    )
    assert [at for _, times in found for at in times] == [at for at, _ in lines]
