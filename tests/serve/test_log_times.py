"""When lines were written, as text and as JSON, at once and while the log grows."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.logs import LogWriter, index_path, stamp
from ci.models import BuildState, Target
from ci.serve.pages import log_file
from tests.fakes.waiting import wait_until, wait_until_sync
from tests.serve.conftest import Private, Served, error_of

BEGINNING = 1_795_132_800_000
LIMIT = 1 << 30
WEB = Target(
    "checks.web",
    BuildState.FAILED,
    derivation="/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web.drv",
)
DOC = Target("checks.doc", BuildState.FAILED, error="infinite\nrecursion")
# What was written, and how many seconds after the first.
WRITTEN = (
    (b"build-server: building\nweb> one\n", 0.0),
    (b"lib> needle\nweb> ha", 1.5),
    (b"lf\nweb> needle\n", 60.04),
    (b"no end", 61.0),
)
LINES = b"".join(data for data, _ in WRITTEN).decode().splitlines()
TIMES = ["00:00.0", "00:00.0", "00:01.5", "00:01.5", "01:00.0", "01:01.0"]
TIMED = [f"2026-11-20T00:{at}Z {line}" for at, line in zip(TIMES, LINES, strict=True)]


def write(path: Path, limit: int = LIMIT) -> None:
    now = BEGINNING
    with LogWriter(path, limit, clock=lambda: now * 1_000_000) as log:
        for data, after in WRITTEN:
            now = BEGINNING + int(after * 1000)
            log.write(data)


@pytest.fixture
async def log(served: Served) -> str:
    """The path of the log of a build that has failed."""
    build = await served.add(1, BuildState.FAILED, targets=(WEB, DOC), log=b"")
    await asyncio.to_thread(write, served.log_path(build))
    return f"/builds/{build}/log"


async def text(client: Private, path: str, **headers: str) -> str:
    async with client.get(path, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        return await response.text()


async def lines(client: Private, path: str) -> list[Any]:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        found: list[Any] = (await response.json())["lines"]
        return found


async def test_every_line_after_its_time(client: Private, log: str) -> None:
    whole = "\n".join(TIMED)
    assert await text(client, f"{log}?times=1") == whole
    assert await text(client, f"{log}.txt?times=1") == whole
    # A page has none.
    assert await text(client, f"{log}?times=1", Accept="text/html") == whole
    assert await text(client, f"{log}?times=0") == "\n".join(LINES)
    async with client.head(f"{log}?times=1") as response:
        assert "Content-Length" not in response.headers


async def test_a_part_of_the_log(client: Private, log: str) -> None:
    first = len(LINES[0]) + 1
    assert await text(client, f"{log}?times=1&offset={first}") == "\n".join(TIMED[1:])
    # What begins in the middle of a line says nothing of that.
    rest = "\n".join([LINES[1][3:], *TIMED[2:]])
    assert await text(client, f"{log}?times=1&offset={first + 3}") == rest
    assert await text(client, f"{log}?times=1&tail=6") == TIMED[-1]
    assert await text(client, f"{log}?times=1&from=3&to=4") == "\n".join(
        [*TIMED[2:4], ""]
    )
    own = [line for line in TIMED if " web> " in line]
    assert await text(client, f"{log}?times=1&target=checks.web") == "\n".join(
        [*own, ""]
    )
    error = await text(client, f"{log}?times=1&target=checks.doc")
    assert error == "- infinite\n- recursion\n"
    found = await text(client, f"{log}?times=1&q=NEEDLE")
    assert found == (
        "2026-11-20T00:01:00.0Z 5:web> needle\n2026-11-20T00:00:01.5Z 3:lib> needle\n"
    )
    await error_of(client, "GET", f"{log}?times=yes", 400)


async def test_times_as_json(client: Private, log: str) -> None:
    found = await lines(client, f"{log}.json?times=1")
    assert [f"{line['time']} " for line in found] == [line[:23] for line in TIMED]
    found = await lines(client, f"{log}.json?times=1&target=checks.web&from=3")
    assert [line["time"][14:-1] for line in found] == ["00:01.5", "01:00.0"]
    found = await lines(client, f"{log}.json?times=1&q=needle")
    assert [line["time"][14:-1] for line in found] == ["01:00.0", "00:01.5"]
    assert {line["time"] for line in await lines(client, f"{log}.json")} == {None}


async def test_a_log_of_an_earlier_version_has_no_times(
    served: Served, client: Private, log: str
) -> None:
    index_path(served.log_path(1)).unlink()
    expected = "\n".join(f"- {line}" for line in LINES)
    assert await text(client, f"{log}?times=1") == expected
    found = await lines(client, f"{log}.json?times=1")
    assert {line["time"] for line in found} == {None}


async def test_endless_lines_do_not_put_the_others_out(
    served: Served, client: Private
) -> None:
    """Of such a line only the beginning is read; times go by bytes."""
    build = await served.add(1, BuildState.FAILED, log=b"")
    now = BEGINNING
    endless = b"x" * (log_file.ENDLESS + 3 * log_file.PIECE)
    with LogWriter(served.log_path(build), LIMIT, clock=lambda: now * 10**6) as log:
        for data in (
            b"first\n",
            endless + b"\nsecond\n",
            b"third" + endless,
            b"\nfourth\n",
        ):
            log.write(data)
            now += 1000
    found = await lines(client, f"/builds/{build}/log.json?times=1")
    assert [(line["text"][:6], line["time"]) for line in found] == [
        ("first", stamp(BEGINNING)),
        ("xxxxxx", stamp(BEGINNING + 1000)),
        ("second", stamp(BEGINNING + 1000)),
        ("thirdx", stamp(BEGINNING + 2000)),
        ("fourth", stamp(BEGINNING + 3000)),
    ]


def _another_tenth() -> Callable[[], bool]:
    """Whether this tenth of a second is over."""
    tenth = int(time.time() * 10)
    return lambda: time.time() * 10 >= tenth + 1


async def test_a_follower_is_told_the_times_of_what_comes(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.RUNNING, targets=(WEB,), log=b"")
    path = f"/builds/{build}/log?follow=1&times=1"
    readers = [
        asyncio.create_task(text(client, path + more))
        for more in ("", "&target=checks.web", "&offset=0")
    ]
    await wait_until(lambda: served.following(client) == len(readers))
    began = int(time.time() * 10) / 10
    said = []
    with LogWriter(served.log_path(build), LIMIT, served.hub) as writer:
        for number in range(51):
            said.append(f"web> {number}")
            if number % 10:
                for piece in (b"we", b"b> %d" % number, b"\n"):
                    writer.write(piece)
                continue
            # A write may end in another tenth than it began in; then nobody knows when
            # it was, until the first write of a later tenth. So nobody looks before that.
            wait_until_sync(_another_tenth())
            writer.write(b"web> %d\n" % number)
            await wait_until(_another_tenth(), what="another tenth")
    await served.finish(build)
    ended = time.time()
    for reader in readers:
        found = [line.partition(" ") for line in (await reader).splitlines()]
        assert [line for _, _, line in found] == said
        times = [at for at, _, _ in found]
        assert all(
            re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\dZ", at) for at in times
        )
        assert times == sorted(times)
        assert stamp(int(began * 1000)) <= times[0]
        assert times[-1] <= stamp(int(ended * 1000))
        assert len(set(times)) > 3
