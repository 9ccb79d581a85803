"""Logs that are there: the last lines, raw bytes, parts of them, one target's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient, TestServer

from ci.config import parse
from ci.models import BuildState, Target
from tests.serve.conftest import REPO, Private, Served, document, error_of

RAW = b"one\n\x1b[31mtwo\xff\r\nthree \xe2\x9c\x93\n<script>four"
LINES = ["one", "\x1b[31mtwo\ufffd\r", "three ✓", "<script>four"]
WEB = Target(
    "checks.web",
    BuildState.FAILED,
    error="expected 200",
    derivation="/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web-1.0.drv",
)
DOC = Target("checks.doc", BuildState.FAILED, error="infinite recursion")
NIX_LOG = b"build-server: building\nweb-1.0> a\nlib> b\nweb-1.0> c\nweb-1.0-doc> d\n"


async def lines_of(client: Private, query: str = "") -> tuple[Any, Any]:
    async with client.get(f"/build/logs{query}") as response:
        assert response.status == 200, await response.text()
        body = await response.json()
        assert set(body) == {"logs", "build"}
        return body["build"], body["logs"]


async def raw(client: Private, path: str) -> bytes:
    async with client.get(path) as response:
        assert response.status == 200, await response.text()
        return await response.read()


async def test_lines_of_nothing(served: Served, client: Private) -> None:
    assert await lines_of(client) == (None, [])
    waiting = await served.add(1)
    assert await lines_of(client) == (None, [])
    assert await lines_of(client, f"?build={waiting}") == (waiting, [])
    assert await raw(client, f"/builds/{waiting}/log") == b""


async def test_lines_come_from_what_runs_or_else_ran_last(
    served: Served, client: Private
) -> None:
    first = await served.add(1, BuildState.SUCCEEDED, log=b"old\n")
    last = await served.add(2, BuildState.FAILED, log=RAW)
    await served.add(3, BuildState.SKIPPED)
    await served.add(4)
    assert await lines_of(client) == (last, LINES)
    assert await lines_of(client, "?lines=2") == (last, LINES[-2:])
    assert await lines_of(client, f"?build={first}") == (first, ["old"])
    running = await served.add(5, BuildState.RUNNING, log=b"now\n")
    assert await lines_of(client) == (running, ["now"])


async def test_hundred_lines_unless_asked_otherwise(
    served: Served, client: Private
) -> None:
    log = [f"line {n}" for n in range(20_000)]
    await served.add(1, BuildState.SUCCEEDED, log="\n".join(log).encode() + b"\n")
    assert (await lines_of(client))[1] == log[-100:]
    assert (await lines_of(client, "?lines=1"))[1] == log[-1:]
    assert (await lines_of(client, "?lines=10000"))[1] == log[-10_000:]


async def test_lines_as_text(served: Served, client: Private) -> None:
    await served.add(1, BuildState.SUCCEEDED, log=b"a\nb\n")
    async with client.get("/build/logs", headers={"Accept": "text/plain"}) as response:
        assert await response.text() == "a\nb\n"


async def test_raw_log_is_the_file_and_no_browser_runs_it(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, log=RAW * 10_000)
    async with client.get(f"/builds/{build}/log") as response:
        assert await response.read() == RAW * 10_000
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Build-State"] == "failed"
        assert response.headers["X-Log-Attempt"] == "1"
        assert response.headers["X-Log-Offset"] == "0"
        assert response.headers["X-Log-Size"] == str(len(RAW) * 10_000)
        assert response.content_length == len(RAW) * 10_000


async def test_parts_of_a_log_are_counted_in_bytes(
    served: Served, client: Private
) -> None:
    path = f"/builds/{await served.add(1, BuildState.FAILED, log=RAW)}/log"
    assert await raw(client, f"{path}?tail=7") == RAW[-7:]
    assert await raw(client, f"{path}?tail=1000") == RAW
    assert await raw(client, f"{path}?offset=7") == RAW[7:]
    assert await raw(client, f"{path}?offset={len(RAW)}") == b""
    async with client.get(f"{path}?tail=7") as response:
        assert response.headers["X-Log-Offset"] == str(len(RAW) - 7)
    beyond = await error_of(client, "GET", f"{path}?offset={len(RAW) + 1}", 416)
    assert beyond["detail"]["size"] == len(RAW)
    await error_of(client, "GET", f"{path}?offset=1&tail=1", 400)
    await error_of(client, "GET", f"{path}?tail=0", 400)


async def test_removed_logs_are_gone_and_attempts_that_never_were_not_found(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED)
    for path in (f"/builds/{build}/log", f"/build/logs?build={build}"):
        for follow in ("0", "1"):
            joint = "&" if "?" in path else "?"
            body = await error_of(client, "GET", f"{path}{joint}follow={follow}", 410)
            assert body["detail"] == {"build": build, "attempt": 1}
    await error_of(client, "GET", f"/builds/{build}/log?attempt=2", 404)
    body = await error_of(client, "GET", f"/builds/{build}/log?target=nope", 404)
    assert body["detail"]["targets"] == []


async def test_earlier_attempts_keep_their_logs(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, log=b"first\n")
    await served.retry(build)
    path = f"/builds/{build}/log"
    assert await raw(client, path) == b"first\n"
    await served.begin(build)
    served.log_path(build, 2).write_bytes(b"second\n")
    assert await raw(client, path) == b"second\n"
    assert await raw(client, f"{path}?attempt=1") == b"first\n"


async def test_lines_of_one_target(served: Served, client: Private) -> None:
    build = await served.add(
        1, BuildState.FAILED, targets=(WEB, DOC), log=NIX_LOG * 9000
    )
    path = f"/builds/{build}/log?target="
    assert await raw(client, path + WEB.name) == b"web-1.0> a\nweb-1.0> c\n" * 9000
    assert await raw(client, path + DOC.name) == b"infinite recursion\n"
    body = await error_of(client, "GET", path + "checks.nope", 404)
    assert body["detail"]["targets"] == [WEB.name, DOC.name]
    await error_of(client, "GET", f"{path}{WEB.name}&tail=5", 400)


async def test_whole_log_is_that_of_the_only_command(
    served: Served, tmp_path: Path
) -> None:
    repository = {"name": REPO, "builder": "command", "command": ["make"]}
    served.settings = parse(document(tmp_path, repository=[repository]))
    make = Target("make", BuildState.FAILED, error="exit code 2")
    build = await served.add(1, BuildState.FAILED, targets=(make,), log=b"cc a.c\n")
    async with TestClient(TestServer(served.application())) as client:
        assert await raw(client, f"/builds/{build}/log?target=make") == b"cc a.c\n"


@pytest.mark.parametrize(
    ("accept", "asked"),
    [
        ("application/json", "log"),
        ("*/*", "log"),
        ("text/html;q=0.5, text/plain", "log"),
        ("text/html", "log?offset=0"),
        ("text/html", "log?tail=9"),
        ("text/html", "log?follow=1"),
        ("text/html", "log.txt"),
    ],
)
async def test_raw_log_is_text_for_whoever_asks_for_no_page(
    served: Served, client: Private, accept: str, asked: str
) -> None:
    build = await served.add(1, BuildState.FAILED, log=b"<script>\n")
    async with client.get(
        f"/builds/{build}/{asked}", headers={"Accept": accept}
    ) as got:
        assert got.content_type == "text/plain"
        assert await got.read() == b"<script>\n"


async def test_log_that_shrinks_is_not_passed_off_as_whole(
    served: Served, client: Private
) -> None:
    build = await served.add(1, BuildState.FAILED, log=b"x" * 32_000_000)
    async with client.get(f"/builds/{build}/log") as response:
        served.log_path(build).write_bytes(b"")
        with pytest.raises(ClientPayloadError):
            await response.read()
