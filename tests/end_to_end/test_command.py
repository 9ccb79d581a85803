"""The command builder, and stopping: cancel, time limits, TERM, a second server."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from tests.end_to_end.server import World, marked_processes
from tests.fakes.waiting import wait_until

NASTY = (
    b"a" * 200_000 + b"\n\x00\xff\xfe nul and bad utf-8\rcarriage\n\x1b[31mred\x1b[0m"
)


def script(world: World, body: str, **more: bytes) -> str:
    return world.origin.commit(
        {"ci": f"#!/bin/sh\n{body}\n", **more}, executable=["ci"]
    )


async def test_bytes_go_through_the_log_unchanged(command_world: World) -> None:
    world = command_world
    sha = script(world, "cat nasty; echo written > inside && test -w .", nasty=NASTY)
    async with world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "succeeded", build
        log = await server.text("/builds/1/log")
        assert NASTY in log
        await world.github.wait_for(sha, "success")


async def test_the_exit_code_is_the_verdict_and_its_last_line_the_error(
    command_world: World,
) -> None:
    sha = script(command_world, "echo first; echo it broke here >&2; exit 7")
    async with command_world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "failed"
        assert build["targets"][0]["error"] == "exit code 7: it broke here"


async def test_cancel_ends_even_what_ignores_term_and_forks(
    command_world: World,
) -> None:
    world = command_world
    sha = script(
        world, "trap '' TERM; (trap '' TERM; setsid sleep 600) & echo up; sleep 600"
    )
    async with world.server() as server:
        await server.push(sha)
        await server.until_said(1, b"up")
        status, answer = await server.post("/builds/1/cancel")
        assert status == 202, answer
        build = await server.finished(1)
        assert build["state"] == "cancelled"
        assert "cancelled by" in build["summary"]

        async def alone() -> bool:
            return not await marked_processes(world.state_dir)

        await wait_until(alone, what="no process left")
        posted = await world.github.wait_for(sha, "error")
        assert "cancelled by" in posted.description
        status, answer = await server.post("/builds/1/cancel")
        assert (status, answer["detail"]["state"]) == (409, "cancelled")


@pytest.mark.parametrize(
    ("limit", "body", "said"),
    [
        ({"silent_timeout": "1s"}, "sleep 600", "silent for more than 1 second"),
        (
            {"timeout": "3s"},
            "while :; do echo noise; sleep 0.1; done",
            "timed out after 3 seconds",
        ),
    ],
)
async def test_limits_of_silence_and_time(
    command_world: World, limit: dict[str, str], body: str, said: str
) -> None:
    """One at a time: on a slow machine who makes noise may be silent for a while."""
    command_world.build = limit
    sha = script(command_world, body)
    async with command_world.server() as server:
        await server.push(sha)
        build = await server.finished(1)
        assert build["state"] == "failed"
        assert said in build["summary"]


async def test_limit_of_the_log(command_world: World) -> None:
    command_world.build = {"log_limit": "4KiB"}
    sha = script(command_world, "yes 'a line of the log' | head -c 100000")
    async with command_world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        written = await server.text("/builds/1/log")
        assert len(written) < 5000
        assert b"cut here" in written


async def test_sigterm_puts_a_running_build_back_and_the_next_server_ends_it(
    command_world: World,
) -> None:
    world = command_world
    flag = world.folder / "let-it-end"
    world.build = {"sandbox": False}
    sha = script(world, f"echo up; until test -e {flag}; do sleep 0.1; done")
    async with world.server() as server:
        await server.push(sha)
        await server.until_said(1, b"up")
        server.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: any("stopping" in line for line in server.raw))
        # The second does not wait for the grace period.
        assert await server.stop() == 0
    assert await marked_processes(world.state_dir) == []
    flag.write_text("")
    async with world.server() as server:
        build = await server.finished(1)
        assert (build["state"], build["attempt"]) == ("succeeded", 2)


async def test_a_second_server_says_who_holds_the_state(command_world: World) -> None:
    async with command_world.server() as server:
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ci",
            "serve",
            "--config",
            str(command_world.folder / "config.toml"),
            env=dict(command_world.environ),
            stderr=asyncio.subprocess.PIPE,
            cwd=command_world.folder,
        )
        _, said = await second.communicate()
        assert second.returncode == 1
        assert f"in use by process {server.process.pid}" in said.decode()


async def test_a_flag_like_branch_is_built_and_never_interpreted(
    command_world: World,
) -> None:
    world = command_world
    names = [
        "--upload-pack=touch canary",
        "$(touch canary)",
        "<svg onload=alert(1)>",
        "a" * 40,
        "a;touch canary",
    ]
    usable = [name for name in names if " " not in name]
    world.repository |= {"branches": usable}
    script(world, "true")
    async with world.server() as server:
        for number, name in enumerate(usable, 1):
            sha = world.origin.commit({f"f{number}": name}, branch=name)
            await world_files(world, name)
            answer = await server.push(sha, branch=name)
            if not answer["accepted"]:
                continue
            build = await server.finished(answer["builds"][0])
            assert build["branch"] == name
            assert build["state"] in {"succeeded", "failed"}, build
    assert not list(world.folder.rglob("canary"))


async def world_files(world: World, branch: str) -> None:
    """Give the branch the same `ci` script."""
    await asyncio.to_thread(
        world.origin.commit,
        {"ci": "#!/bin/sh\ntrue\n"},
        branch=branch,
        executable=["ci"],
    )
