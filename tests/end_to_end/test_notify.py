"""People are told when a branch breaks, by a real server through a real Apprise."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.server import Server, World
from tests.fakes.invariants import history
from tests.fakes.mailbox import Mailbox
from tests.fakes.waiting import wait_until

BROKEN = "✗ dev of octo-org/hello is broken: ./ci"
FIXED = "✓ dev of octo-org/hello is fixed"
TROUBLE = "! build-server on build-server is in trouble: disk"
WELL = "✓ build-server on build-server is well again: disk"
BAD = "echo 'error: the door is stuck' >&2; exit 3"


@pytest.fixture
async def mailbox(command_world: World) -> AsyncIterator[Mailbox]:
    """Where the messages of the world's server go."""
    async with Mailbox() as box:
        addresses = command_world.folder / "notify-urls"
        addresses.write_text(box.url + "\n")
        command_world.extra = (
            f'[notify]\nurls_file = "{addresses}"\ntrouble_after = "1s"\n'
        )
        yield box


async def build(server: Server, body: str, before: str = "") -> str:
    """Push a commit whose build does `body`, wait for its end; return the SHA."""
    text = f"#!/bin/sh\n# {before}\n{body}\n"
    sha = server.world.origin.commit({"ci": text}, executable=["ci"])
    answer = await server.push(sha, before=before)
    await server.finished(answer["builds"][-1])
    return sha


async def arrived(box: Mailbox, *titles: str) -> None:
    def there() -> bool:
        return len(box.titles) >= len(titles)

    await wait_until(there, 120, what=f"{len(titles)} messages")
    assert box.titles == list(titles)


async def check_of(server: Server) -> dict[str, Any] | None:
    checks = (await server.get("/health"))["checks"]
    return next((check for check in checks if check["name"] == "notify"), None)


async def test_broken_and_fixed_are_told_and_nothing_between(
    command_world: World, mailbox: Mailbox
) -> None:
    async with command_world.server() as server:
        good = await build(server, "echo fine")
        bad = await build(server, BAD, good)
        await arrived(mailbox, BROKEN)
        (message,) = mailbox.messages
        assert message["type"] == "failure"
        assert "exit code 3: error: the door is stuck" in message["message"]
        assert f"commit {bad[:7]} " in message["message"]
        assert message["message"].endswith("http://build-server:8000/builds/2")
        worse = await build(server, BAD + "3", bad)
        await build(server, "echo mended", worse)
        await arrived(mailbox, BROKEN, FIXED)
        check = await check_of(server)
        assert check is not None
        assert check["ok"]
        pages = [await server.text(path) for path in ("/health", "/builds", "/metrics")]
    assert mailbox.token not in "\n".join(server.raw)
    assert mailbox.token.encode() not in b"".join(pages)
    stored = await asyncio.to_thread(_stored, command_world.state_dir)
    assert mailbox.token.encode() not in stored


def _stored(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_what_could_not_be_sent_arrives_after_a_restart_and_once(
    command_world: World, mailbox: Mailbox
) -> None:
    mailbox.status = 500
    async with command_world.server() as server:
        bad = await build(server, BAD)
        await wait_until(lambda: mailbox.refused, 120, what="the first try")

        async def failing() -> bool:
            check = await check_of(server)
            return check is not None and not check["ok"]

        await wait_until(failing, 120, what="the health check")
        await server.kill()
    assert mailbox.titles == []
    mailbox.status = 200
    async with command_world.server() as server:
        await arrived(mailbox, BROKEN)
        await build(server, "echo mended", bad)
        await arrived(mailbox, BROKEN, FIXED)


async def test_trouble_of_the_service_is_told_once_and_so_is_its_end(
    command_world: World, mailbox: Mailbox
) -> None:
    notify = command_world.extra
    command_world.extra = notify + '[disk]\nstate_low = "900TiB"\n'
    async with command_world.server():
        await arrived(mailbox, TROUBLE)
        # Killed before it was noted that the message went, the server would send it again.
        await wait_until(
            lambda: _noted(command_world), 60, what="the note that it went"
        )
    assert "What helps: " in mailbox.messages[0]["message"]
    command_world.extra = notify
    async with command_world.server():
        await arrived(mailbox, TROUBLE, WELL)


def _noted(world: World) -> bool:
    with closing(history(world.state_dir)) as connection:
        query = "SELECT count(*) FROM notices WHERE sent_at IS NULL"
        return bool(connection.execute(query).fetchone()[0] == 0)


async def test_addresses_can_be_tried_and_changed(
    command_world: World, mailbox: Mailbox
) -> None:
    path = command_world.write_configuration()
    argv = command_world.command("notify", "--test", "--config", str(path))

    def trial() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            env=dict(command_world.environ),
            cwd=command_world.folder,
            capture_output=True,
            text=True,
        )

    done = await asyncio.to_thread(trial)
    assert (done.returncode, done.stdout, done.stderr) == (0, "JSON: sent\n", "")
    assert mailbox.titles == ["build-server on build-server: a test"]
    addresses = command_world.folder / "notify-urls"
    good = addresses.read_text()
    addresses.write_text(good + "json://127.0.0.1:1/s3cret\n")
    done = await asyncio.to_thread(trial)
    assert done.returncode == 1
    assert "JSON: sent\n" in done.stdout
    assert "JSON: A Connection error occurred" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    addresses.write_text("nonsense\n")
    done = await asyncio.to_thread(trial)
    assert done.returncode == 2
    assert "notify.urls_file" in done.stderr
    assert "holds no URL of Apprise" in done.stderr
    assert "nonsense" not in done.stderr
    # A server that has an address that does not work takes the new one while it runs.
    mailbox.messages.clear()
    addresses.write_text("json://127.0.0.1:1/s3cret\n")
    async with command_world.server() as server:
        await build(server, BAD)
        addresses.write_text(good)
        server.process.send_signal(1)
        await arrived(mailbox, BROKEN)


async def test_without_apprise_everybody_says_how_to_install_it(
    command_world: World, mailbox: Mailbox
) -> None:
    hidden = (
        "import sys; sys.modules['apprise'] = None; from ci.cli import main; main()"
    )
    command_world.program = ("-c", hidden)
    async with command_world.server() as server:
        bad = await build(server, BAD)

        async def known() -> bool:
            check = await check_of(server)
            return check is not None and "pip install" in check["fix"]

        await wait_until(known, 120, what="the finding of /health")
        path = command_world.write_configuration()
        said = {}
        for words in (["check-config"], ["notify", "--test"]):
            argv = command_world.command(*words, "--config", str(path))
            done = await asyncio.to_thread(
                subprocess.run,
                argv,
                env=dict(command_world.environ),
                cwd=command_world.folder,
                capture_output=True,
                text=True,
            )
            said[words[0]] = done
        assert [done.returncode for done in said.values()] == [0, 1]
        for done in said.values():
            assert "Apprise is not installed; install it: `pip install" in done.stderr
    command_world.program = ("-m", "ci")
    # Once it is there the message goes, though it was due before.
    async with command_world.server() as server:
        await arrived(mailbox, BROKEN)
        await build(server, "echo mended", bad)
        await arrived(mailbox, BROKEN, FIXED)
