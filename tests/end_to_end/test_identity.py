"""Who asked for what, as `tailscale serve` tells it, is written down."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.end_to_end.server import Server, World
from tests.fakes.push import sha

ADA = {"Tailscale-User-Login": "ada@example.com", "Tailscale-User-Name": "Ada"}
BJORN = {"Tailscale-User-Login": "=?utf-8?q?bj=C3=B6rn@example.com?="}


async def post(
    server: Server, path: str, headers: Mapping[str, str], host: str = "127.0.0.1"
) -> tuple[int, Any]:
    url = server.private.replace("0.0.0.0", host) + path  # noqa: S104
    async with server.session.post(url, headers=headers) as response:
        return response.status, await response.json()


def asked(world: World) -> list[tuple[str, str, int | None]]:
    with closing(sqlite3.connect(world.state_dir / "history.db")) as history:
        return history.execute(
            "SELECT kind, asked_by, build FROM requests ORDER BY id"
        ).fetchall()


async def test_trigger_cancel_and_retry_name_who_asked(command_world: World) -> None:
    world = command_world
    world.build = {"parallel": 0}
    commit = await asyncio.to_thread(
        world.origin.commit, {"ci": "#!/bin/sh\n"}, executable=["ci"]
    )
    async with world.server() as server:
        status, answer = await post(server, "/build/trigger", ADA)
        assert (status, answer["build"]["sha"]) == (202, commit)
        status, build = await post(server, "/builds/1/cancel", BJORN)
        assert (status, build["state"]) == (202, "cancelled")
        assert build["summary"] == "cancelled by björn@example.com"
        posted = await world.github.wait_for(commit, "error")
        assert "björn@example.com" in posted.description
        status, build = await post(server, "/builds/1/retry", ADA)
        assert (status, build["state"]) == (202, "queued")
        # The internet has no name, and is not answered at all.
        funnel = {**ADA, "Tailscale-Funnel-Request": "?1"}
        assert (await post(server, "/builds/1/cancel", funnel))[0] == 403
        assert (await post(server, "/builds/1/cancel", {}))[0] == 202
        assert (await server.build(1))["summary"] == "cancelled by 127.0.0.1"
    assert asked(world) == [
        ("trigger", "ada@example.com", 1),
        ("cancel", "björn@example.com", 1),
        ("retry", "ada@example.com", 1),
        ("cancel", "127.0.0.1", 1),
    ]


async def test_a_listener_that_others_reach_believes_no_name(
    command_world: World,
) -> None:
    world = command_world
    world.build = {"parallel": 0}
    plain = world.write_configuration

    def everywhere() -> Path:
        path = plain()
        text = path.read_text()
        path.write_text(
            text.replace('private = "127.0.0.1:0"', 'private = "0.0.0.0:0"')
        )
        return path

    world.write_configuration = everywhere  # type: ignore[method-assign] # another address
    async with world.server() as server:
        assert (await server.push(sha(1)))["builds"] == [1]
        status, build = await post(server, "/builds/1/cancel", ADA)
        assert (status, build["summary"]) == (202, "cancelled by 127.0.0.1")
    assert asked(world) == [("cancel", "127.0.0.1", 1)]
