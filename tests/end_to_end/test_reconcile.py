"""Missed means found: the real server after it was down, beside webhooks, and without."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.end_to_end.server import REPO, Server, World
from tests.fakes.ports import keep_port, port_of
from tests.fakes.push import make_commit, make_push
from tests.fakes.waiting import wait_until

GOOD = {"ci": "#!/bin/sh\ntrue\n"}
PARALLEL = {"parallel": 4, "sandbox": False}

Builds = dict[str, dict[str, Any]]


def commit(world: World, title: str, branch: str = "dev") -> str:
    files = {**GOOD, "title": title}
    return world.origin.commit(files, title, branch=branch, executable=["ci"])


async def builds(server: Server) -> Builds:
    """By the title of their commit."""
    page = await server.get("/builds?limit=100")
    return {build["title"]: build for build in page["builds"]}


async def settled(server: Server, count: int) -> Builds:
    """Wait until there are so many builds, and all have ended."""

    async def ended() -> Builds | None:
        found = await builds(server)
        done = all(build["finished_at"] for build in found.values())
        return found if len(found) >= count and done else None

    found = await wait_until(ended, 60, what=f"{count} ended builds")
    assert found is not None
    return found


async def looked(server: Server) -> None:
    """Wait until every repository was compared with its remote."""

    async def good() -> bool:
        check = await checked(server, "reconcile")
        return check["ok"] and "as the remote shows" in check["detail"]

    await wait_until(good, 60, what="a look at every repository")


async def checked(server: Server, name: str) -> dict[str, Any]:
    """What `/health` says under this name; empty when it says nothing."""
    health = await server.get("/health")
    found = [check for check in health["checks"] if check["name"] == name]
    return dict(found[0]) if found else {}


async def test_pushes_made_while_the_server_was_down_are_found_at_the_start(
    command_world: World,
) -> None:
    world, origin = command_world, command_world.origin
    branches = ["dev", "rewritten", "created", "gone"]
    world.repository |= {"branches": branches}
    world.build = {**PARALLEL, "parallel": 0}
    first = {name: commit(world, f"{name} 1", name) for name in branches[:2]}
    first["gone"] = commit(world, "gone 1", "gone")
    async with world.server() as server:
        for branch, sha in first.items():
            await server.push(sha, branch=branch)
        away = commit(world, "rewritten away", "rewritten")
        await server.push(away, before=first["rewritten"], branch="rewritten")
        await server.stop()

    added = [commit(world, f"dev {number}") for number in range(2, 7)]
    origin.branch("rewritten", first["rewritten"])
    commit(world, "rewritten 2", "rewritten")
    origin.branch("created", first["dev"])
    commit(world, "created 2", "created")
    origin.delete("gone")
    world.github_table = {"reconcile_every": "1h"}
    async with world.server() as server:
        await looked(server)
        found = await builds(server)
        summaries = {build["sha"]: build["summary"] for build in found.values()}
        assert summaries[first["gone"]] == "branch gone was deleted"
        assert summaries[away].startswith("no longer on rewritten after the force push")
        await server.stop()

    world.build = PARALLEL
    async with world.server() as server:
        found = await settled(server, 11)
        causes = {build["sha"]: build["cause"] for build in found.values()}
        told = {*first.values(), away}
        assert {sha for sha, cause in causes.items() if cause == "push"} == told
        assert set(causes.values()) == {"push", "reconcile"}
        new = {*(f"dev {number}" for number in range(2, 7)), "created 2", "rewritten 2"}
        assert {t for t, b in found.items() if b["cause"] == "reconcile"} == new
        skipped = {b["sha"] for b in found.values() if b["state"] == "skipped"}
        assert skipped == {first["gone"], away}
        assert [b["state"] for b in found.values()].count("succeeded") == 9
        assert (await server.get("/build/status"))["last_commit"] == added[-1]
        # The webhook comes late, and twice: nothing changes.
        before = await builds(server)
        for _ in range(2):
            await server.push(added, before=first["dev"])
        assert await builds(server) == before


async def test_webhooks_and_looks_at_the_same_time_build_each_commit_once(
    command_world: World,
) -> None:
    world = command_world
    world.github_table = {"reconcile_every": "50ms"}
    world.build = PARALLEL
    before = await asyncio.to_thread(commit, world, "commit 0")
    async with world.server() as server:
        shas, answers = [before], []
        await settled(server, 1)
        for number in range(1, 16):
            sha = await asyncio.to_thread(commit, world, f"commit {number}")
            answers.append(await server.push(sha, before=shas[-1]))
            shas.append(sha)
        await looked(server)
        page = (await server.get("/builds?limit=100"))["builds"]
        assert sorted(build["sha"] for build in page) == sorted(shas)
        numbers = {build["sha"]: build["number"] for build in page}
        assert [answer["builds"] for answer in answers] == [
            [numbers[sha]] for sha in shas[1:]
        ]
        await settled_all(server)
        assert (await server.get("/build/status"))["last_commit"] == shas[-1]


async def settled_all(server: Server) -> None:
    async def idle() -> bool:
        status = await server.get("/build/status")
        return not status["queue"] and not status["current"]

    await wait_until(idle, 60, what="the end of all builds")


SSH = """#!/bin/sh
# Stands for ssh: the repository is on this disk, or the host never answers.
echo "$*" >> {folder}/ssh-calls
case "$*" in *hangs*) exec sleep 600;; esac
exec git upload-pack {origin}
"""


def ssh(world: World) -> Path:
    """Put an `ssh` before all others on the server's PATH; return its record of calls."""
    program = world.folder / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(SSH.format(folder=world.folder, origin=world.origin.path))
    program.chmod(0o755)
    path = f"{program.parent}:{world.environ['PATH']}"
    world.environ = {**world.environ, "PATH": path}
    return world.folder / "ssh-calls"


async def test_a_remote_that_hangs_keeps_no_other_repository_waiting(
    command_world: World,
) -> None:
    world = command_world
    ssh(world)
    world.extra = """
[[repository]]
name = "octo-org/hangs"
url = "ssh://git@hangs.example/octo-org/hangs.git"
"""
    world.github_table = {"reconcile_every": "200ms"}
    world.build = PARALLEL
    await asyncio.to_thread(commit, world, "first")
    async with world.server() as server:
        await settled(server, 1)
        await asyncio.to_thread(commit, world, "second")
        found = await settled(server, 2)
        assert {build["repo"] for build in found.values()} == {REPO}
        check = await checked(server, "reconcile")
        assert check["detail"] == "looking for the first time"


async def test_polling_alone_finds_pushes_and_asks_git_only_when_something_moved(
    command_world: World,
) -> None:
    world = command_world
    calls = ssh(world)
    world.repository |= {"url": f"ssh://git@127.0.0.1/{REPO}.git"}
    world.github_table = {"reconcile_every": "100ms", "webhook": False}
    world.build = PARALLEL
    world.github.hooks.origins[REPO] = world.origin
    first = await asyncio.to_thread(commit, world, "first")
    async with world.server() as server:
        assert server.public == ""
        await settled(server, 1)
        await world.github.wait_for(first, "success")

        def unchanged() -> bool:
            told = [
                seen.headers.get("If-None-Match")
                for seen in world.github.requests
                if "/git/ref/" in seen.path
            ]
            return told.count(f'W/"{first}"') >= 5

        await wait_until(unchanged, 60, what="five questions that cost nothing")
        asked = len(calls.read_text().splitlines())
        seen = len(world.github.requests)
        await wait_until(lambda: len(world.github.requests) > seen + 3, 60)
        assert len(calls.read_text().splitlines()) == asked
        second = await asyncio.to_thread(commit, world, "second")
        assert second in [b["sha"] for b in (await settled(server, 2)).values()]
        health = await server.get("/health")
        assert {"webhook", "missed"}.isdisjoint(c["name"] for c in health["checks"])


async def test_what_github_could_not_deliver_is_asked_for_and_counted(
    command_world: World,
) -> None:
    with keep_port() as kept:
        command_world.public = f"127.0.0.1:{port_of(kept)}"
        await _missed_and_asked_for(command_world)


async def _missed_and_asked_for(world: World) -> None:
    hooks = world.github.hooks
    world.build = PARALLEL
    hook = hooks.add(REPO, f"http://{world.public}/webhook")
    shas = [commit(world, "commit 0")]
    async with world.server() as server:
        assert (await hooks.deliver(hook, _told(shas[0], "commit 0"))).ok
        await settled(server, 1)
        await server.stop()
    for number in range(1, 4):
        title = f"commit {number}"
        shas.append(commit(world, title))
        payload = _told(shas[-1], title, before=shas[-2])
        attempt = await hooks.deliver(hook, payload, age=timedelta(hours=4 - number))
        assert not attempt.ok
    world.github_table = {"reconcile_every": "1h"}
    async with world.server() as server:

        async def told() -> bool:
            check = await checked(server, "missed")
            return check.get("detail") == "3 missed, 3 recovered"

        await wait_until(told, 120, what="3 missed, 3 recovered")
        assert (await checked(server, "missed"))["ok"]
        found = await settled(server, 4)
        assert {build["state"] for build in found.values()} == {"succeeded"}
        assert len(found) == 4
        assert (await server.get("/build/status"))["last_commit"] == shas[-1]
        metrics = (await server.text("/metrics")).decode()
        assert "build_server_missed_deliveries 3.0" in metrics
        assert "build_server_recovered_deliveries 3.0" in metrics
        assert "3 missed, 3 recovered" in await _bs(server)
    tries = [seen.at for seen in world.github.requests if "/attempts" in seen.path]
    assert len(tries) == 3
    assert all(later - at >= 1 for at, later in pairwise(tries))


def _told(sha: str, title: str, before: str = "") -> dict[str, Any]:
    made = [make_commit(sha, title)]
    return make_push(made, before=before or None, created=not before)


async def _bs(server: Server) -> str:
    """What a person is told by `bs`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'bs'; from ci.client.main import main; main()",
        env={**os.environ, "BUILD_SERVER_URL": server.private},
        cwd=server.world.folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return said.decode()
