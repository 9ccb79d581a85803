"""Pinning, and what is said when something has gone, or there is no room."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ci.history import logs, paths, pins, requests
from ci.models import BuildState, RequestKind, Target
from tests.serve.conftest import Private, Served, error_of

OUTPUTS = ("out", "doc")


async def post(client: Private, path: str) -> Any:
    async with client.post(path) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def green(served: Served, store: Path, *, branch: str | None = "dev") -> int:
    """A build whose one target has two outputs in a store, and roots for both."""
    for output in OUTPUTS:
        (store / output).mkdir(parents=True)
    outputs = {output: str(store / output) for output in OUTPUTS}
    hello = Target("packages.hello", BuildState.SUCCEEDED, outputs=outputs)
    number = await served.add(1, BuildState.SUCCEEDED, targets=(hello,), branch=branch)
    root = paths.root_path(served.settings.state_dir, 1, branch, hello.name, number)
    root.mkdir(parents=True)
    for output, path in outputs.items():
        (root / output).symlink_to(path)
    return number


async def who(served: Served) -> list[tuple[int, str]]:
    def read(connection: sqlite3.Connection) -> list[tuple[int, str]]:
        rows = connection.execute("SELECT build, pinned_by FROM pins")
        return [tuple(row) for row in rows]

    return await served.database.read(read)


@pytest.mark.parametrize("branch", ["dev", None])
async def test_what_is_pinned_says_so_until_it_is_unpinned(
    served: Served, client: Private, tmp_path: Path, branch: str | None
) -> None:
    build = await green(served, tmp_path / "store", branch=branch)
    bodies = [await post(client, f"/builds/{build}/pin") for _ in range(2)]
    assert await who(served) == [(build, "127.0.0.1")]
    body = bodies[0]
    assert bodies == [body, body]
    assert (body["number"], body["pinned"]) == (build, True)
    shown = await (await client.get(f"/builds/{build}")).json()
    assert shown | body == shown
    assert "pinned" in await (await client.get(f"/builds/{build}.txt")).text()
    for _ in range(2):
        body = await post(client, f"/builds/{build}/unpin")
        assert (body["number"], body["pinned"]) == (build, False)
    assert await who(served) == []


async def test_a_command_has_no_results_but_its_log(
    served: Served, client: Private
) -> None:
    done = Target("make ci", BuildState.SUCCEEDED)
    build = await served.add(1, BuildState.SUCCEEDED, targets=(done,), log=b"ok\n")
    assert (await post(client, f"/builds/{build}/pin"))["pinned"] is True


@pytest.mark.parametrize("state", [s for s in BuildState if s != BuildState.SUCCEEDED])
async def test_only_what_succeeded_can_be_pinned(
    served: Served, client: Private, state: BuildState
) -> None:
    build = await served.add(1, state)
    body = await error_of(client, "POST", f"/builds/{build}/pin", 409)
    assert body["detail"] == {"build": build, "state": state}
    assert "retry it, then pin it" in body["error"]
    assert await who(served) == []


@pytest.mark.parametrize("gone", ["root", "result", "one output"])
async def test_what_has_gone_cannot_be_kept(
    served: Served, client: Private, tmp_path: Path, gone: str
) -> None:
    store = tmp_path / "store"
    build = await green(served, store)
    root = paths.root_path(served.settings.state_dir, 1, "dev", "packages.hello", build)
    if gone == "root":
        await asyncio.to_thread(_empty, root)
    elif gone == "result":
        (store / "out").rmdir()
    else:
        (root / "doc").unlink()
    body = await error_of(client, "POST", f"/builds/{build}/pin", 409)
    assert "packages.hello" in body["error"]
    assert "retry it, then pin it" in body["error"]
    assert await who(served) == []


def _empty(root: Path) -> None:
    for link in root.iterdir():
        link.unlink()
    root.rmdir()


async def test_unknown_builds_and_strangers(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.SUCCEEDED)
    elsewhere = {"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    for verb in ("pin", "unpin"):
        await error_of(client, "POST", f"/builds/99/{verb}", 404)
        path = f"/builds/{build}/{verb}"
        await error_of(client, "POST", path, 403, headers=elsewhere)
    assert await served.database.read(pins.numbers) == frozenset()


async def test_a_removed_log_says_why(served: Served, client: Private) -> None:
    build = await served.add(1, BuildState.FAILED)
    path = f"/builds/{build}/log"
    told = (await error_of(client, "GET", path, 410))["error"]
    assert "was removed, or never written" in told
    log = logs.Log(build, 1, 3, 0)
    why = "on 2026-11-20 because it was older than retention.logs_for (180 days)"
    going = await served.database.write(logs.condemn, [log], (), why)
    assert going == [log]
    told = (await error_of(client, "GET", path, 410))["error"]
    assert told == f"the log of build {build}, attempt 1, was removed {why}"


async def test_without_room_nothing_is_recorded_and_that_is_said(
    served: Served, client: Private
) -> None:
    """SQLite really finds no room: its file may not grow, and its pages are full."""
    build = await served.add(1, BuildState.FAILED)
    await served.database.write(_may_not_grow)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await _ask_for_ever(served)
    body = await error_of(client, "POST", f"/builds/{build}/retry", 503)
    assert "nothing can be recorded now: database or disk is full" in body["error"]
    async with client.get(f"/builds/{build}") as response:
        assert response.status == 200


async def _ask_for_ever(served: Served) -> None:
    while True:
        await served.database.write(
            requests.ask, RequestKind.RETRY, asked_by="127.0.0.1", at=1, build=1
        )


def _may_not_grow(connection: sqlite3.Connection) -> None:
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
