"""How it is run: systemd's protocols, the commands beside `serve`, health, backup."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

import aiohttp

from tests.end_to_end.server import World
from tests.fakes.waiting import wait_until

# `build-server` that writes at its end how many objects the collector passes over, and
# how many it looks at.
COUNTING = """
import atexit, gc, os
from pathlib import Path
from ci.cli import main
def count():
    found = f"{gc.get_freeze_count()} {len(gc.get_objects())}"
    Path(os.environ["COUNTED"]).write_text(found)
atexit.register(count)
main()
"""


async def run_cli(world: World, *arguments: str) -> tuple[int, str, str]:
    """Run `build-server ARGUMENTS…`; return (exit code, stdout, stderr)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "ci",
        *arguments,
        env=dict(world.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=world.folder,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_systemd_hears_ready_alive_and_stopping(command_world: World) -> None:
    path = command_world.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(path))
        inbox.setblocking(False)
        heard: list[str] = []

        def hear() -> None:
            """A socket that holds ten messages takes no more, so it is kept empty."""
            with suppress(BlockingIOError):
                while True:
                    heard.extend(inbox.recv(4096).decode().splitlines())

        loop = asyncio.get_running_loop()
        loop.add_reader(inbox, hear)
        try:
            async with command_world.server(
                NOTIFY_SOCKET=str(path), WATCHDOG_USEC="600000"
            ) as server:
                await wait_until(
                    lambda: heard.count("WATCHDOG=1") >= 3 and "READY=1" in heard, 60
                )
                assert any(line.startswith("STATUS=private http://") for line in heard)
                assert await server.stop() == 0
                hear()
                assert "STOPPING=1" in heard
        finally:
            loop.remove_reader(inbox)


async def test_what_stays_until_the_end_is_not_looked_through_again_and_again(
    command_world: World,
) -> None:
    """A full collection of the whole heap would take longer than any answer may."""
    counted = command_world.folder / "counted"
    command_world.program = ("-c", COUNTING)
    async with command_world.server(COUNTED=str(counted)) as server:
        assert await server.stop() == 0
    spared, left = map(int, counted.read_text().split())
    assert spared > 9 * left


async def test_sockets_that_systemd_opened_are_taken(command_world: World) -> None:
    config = await asyncio.to_thread(command_world.write_configuration)
    with socket.socket() as public, socket.socket() as private:
        for listener in (public, private):
            listener.bind(("127.0.0.1", 0))
            listener.listen()
        moved = os.dup(public.fileno()), os.dup(private.fileno())
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import os, sys\n"
            "for number, old in enumerate(map(int, sys.argv[1:3]), 3):\n"
            "    os.dup2(old, number)\n"
            "os.environ['LISTEN_PID'] = str(os.getpid())\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'ci', 'serve', "
            "'--config', sys.argv[3]])\n",
            *map(str, moved),
            str(config),
            env={
                **command_world.environ,
                "LISTEN_FDS": "2",
                "LISTEN_FDNAMES": "public:private",
            },
            pass_fds=moved,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=command_world.folder,
        )
        for descriptor in moved:
            os.close(descriptor)
        port = private.getsockname()[1]
        try:
            # The kernel queues the connection until the server takes it.
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port}/health") as response,
            ):
                assert response.status == 200
                assert (await response.json())["status"] == "healthy"
        finally:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


async def test_a_backup_of_a_running_server_is_a_whole_history(
    command_world: World,
) -> None:
    world = command_world
    sha = world.origin.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    async with world.server() as server:
        await server.push(sha)
        await server.finished(1)
        target = world.folder / "backup.db"
        config = str(world.folder / "config.toml")
        code, out, err = await run_cli(world, "backup", str(target), "--config", config)
        assert (code, err) == (0, "")
        assert str(target) in out
        code, _, err = await run_cli(world, "backup", str(target), "--config", config)
        assert code == 1
        assert "exists already" in err

    def restored() -> list[tuple[str, str]]:
        copy = sqlite3.connect(target)
        rows = copy.execute("SELECT sha, state FROM builds").fetchall()
        copy.close()
        return rows

    assert await asyncio.to_thread(restored) == [(sha, "succeeded")]


async def test_commands_beside_serve(command_world: World) -> None:
    world = command_world
    config = str(await asyncio.to_thread(world.write_configuration))
    code, out, _ = await run_cli(world, "check-config", "--config", config)
    assert code == 0
    assert "good, 1 repository" in out
    code, out, _ = await run_cli(world, "migrate", "--config", config)
    assert (code, out) == (0, "the history has schema 3\n")
    code, out, _ = await run_cli(world, "doctor", "--config", config)
    assert "configuration" in out
    assert "token" in out
    assert code == int("✗" in out)
    await asyncio.to_thread(Path(config).write_text, "[build]\nparallel = -1\n")
    code, out, err = await run_cli(world, "serve", "--config", config)
    assert code == 2
    lines = err.strip().splitlines()
    assert any("build.parallel" in line for line in lines)
    assert all(line.startswith("build-server: ") for line in lines)


async def test_an_address_that_cannot_be_had_yet_is_worth_another_start(
    command_world: World,
) -> None:
    """Exit 2 ends systemd's tries, and the address of a tailnet comes after the boot."""
    world = command_world
    with socket.create_server(("127.0.0.1", 0)) as other:
        world.private = f"127.0.0.1:{other.getsockname()[1]}"
        config = str(await asyncio.to_thread(world.write_configuration))
        code, _, err = await run_cli(world, "serve", "--config", config)
    assert code == 1
    assert (
        f"build-server: cannot listen on {world.private}: Address already in use" in err
    )
    world.private = "192.0.2.1:8000"
    config = str(await asyncio.to_thread(world.write_configuration))
    code, _, err = await run_cli(world, "serve", "--config", config)
    assert code == 1
    assert "build-server: cannot listen on 192.0.2.1:8000: Cannot assign" in err


async def test_a_canary_secret_is_nowhere(command_world: World) -> None:
    world = command_world
    world.secret = b"canary-secret-that-nobody-may-see"
    sha = world.origin.commit(
        {"ci": "#!/bin/sh\nenv; cat /proc/*/environ /proc/*/cmdline 2>/dev/null; true"},
        executable=["ci"],
    )
    async with world.server() as server:
        await server.push(sha)
        await server.finished(1)
        await world.github.wait_for(sha, "success")
        shown = [await server.text(path) for path in ("/builds/1/log", "/metrics")]
        said = "\n".join(server.raw).encode()
        await server.stop()
    kept = await asyncio.to_thread(_everything_below, world.state_dir)
    token = (world.folder / "token").read_bytes()
    for secret in (world.secret, token):
        assert secret not in b"".join([*shown, said, kept])


def _everything_below(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())


async def test_parallel_zero_records_and_builds_nothing(command_world: World) -> None:
    world = command_world
    world.build = {"parallel": 0}
    sha = world.origin.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    async with world.server() as server:
        answer = await server.push(sha)
        assert answer["builds"] == [1]
        assert (await server.build(1))["state"] == "queued"
    world.build = {}
    async with world.server() as server:
        assert (await server.finished(1))["state"] == "succeeded"


async def test_a_status_that_github_refused_for_a_while_arrives_after_a_restart(
    command_world: World,
) -> None:
    world = command_world
    sha = world.origin.commit({"ci": "#!/bin/sh\n"}, executable=["ci"])
    await world.github.stop()
    async with world.server() as server:
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"
        health = await server.get("/health")
        await server.stop()
    assert health["status"] in {"healthy", "degraded"}
    await world.github.start()
    async with world.server():
        await world.github.wait_for(sha, "success")


async def test_several_builds_run_at_once(command_world: World) -> None:
    world = command_world
    meet = world.folder / "meeting"
    meet.mkdir()
    world.build = {"sandbox": False, "parallel": 2}
    script = (
        "#!/bin/sh\n"
        f"touch {meet}/$(cat me)\n"
        f"until test -e {meet}/one && test -e {meet}/two; do sleep 0.05; done\n"
    )
    one = world.origin.commit({"ci": script, "me": "one"}, executable=["ci"])
    two = world.origin.commit({"me": "two"})
    async with world.server() as server:
        await server.push([one, two])

        async def both() -> bool:
            states = {(await server.build(n))["state"] for n in (1, 2)}
            return states == {"succeeded"}

        await wait_until(both, 60, what="builds that wait for each other")
