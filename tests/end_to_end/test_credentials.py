"""Secrets are changed while the real server runs, and no delivery or status is lost."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import re
import select
import signal
import termios
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.end_to_end import impatient
from tests.end_to_end.server import Server, World
from tests.end_to_end.test_contract_commits import history
from tests.end_to_end.test_faults_network import remote, waits
from tests.fakes.git_http import git_server
from tests.fakes.push import SECRET, encode, headers, make_ping
from tests.fakes.waiting import PATIENCE, wait_until

NEW = b"fedcba9876543210fedcba9876543210"
NEW_TOKEN = "github_pat_11AAAAAAA0_rotated"
API_TOKEN = "a-token-for-the-tailnet"
PING = encode(make_ping())


class Configured:
    """The configuration of a running server, to be changed under its feet."""

    def __init__(self, world: World, server: Server) -> None:
        self.folder = world.folder
        self.server = server

    def write(self, name: str, content: bytes) -> Path:
        """Put a file in the place of another, as a careful program does."""
        new = self.folder / f"{name}.new"
        new.write_bytes(content)
        os.replace(new, self.folder / name)
        return self.folder / name

    def rewrite(self, pattern: str, replacement: str) -> None:
        text = (self.folder / "config.toml").read_text()
        changed, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1
        self.write("config.toml", changed.encode())

    def hang_up(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)

    async def check(self, name: str) -> dict[str, Any] | None:
        health = await self.server.get("/health")
        return next((c for c in health["checks"] if c["name"] == name), None)

    async def until(self, name: str, good: bool) -> str:
        """Wait for the check to be good or bad; return its detail."""

        async def reached() -> str | None:
            found = await self.check(name)
            return found["detail"] if found and found["ok"] is good else None

        detail: str | None = await wait_until(reached, what=f"{name}: {good}")
        assert detail is not None
        return detail


class Stream:
    """Deliveries one after the other, without a pause, signed by whom `sign` names."""

    def __init__(self, server: Server) -> None:
        self.sign: Callable[[], bytes] = lambda: SECRET
        self.answers: Counter[tuple[bytes, int]] = Counter()
        self._waiting: Counter[bytes] = Counter()
        self._server = server

    async def run(self) -> None:
        while True:
            secret = self.sign()
            self._waiting[secret] += 1
            status = await self.one(secret)
            self._waiting[secret] -= 1
            self.answers[secret, status] += 1

    async def one(self, secret: bytes) -> int:
        """Deliver a ping signed with `secret`; return the status."""
        async with self._server.session.post(
            f"{self._server.public}/webhook",
            data=PING,
            headers=headers(PING, secret, event="ping"),
        ) as response:
            await response.read()
            return response.status

    async def more(self, secret: bytes, count: int = 20) -> None:
        """Wait until `count` more of this signer were answered."""
        wanted = self._of(secret) + count
        await wait_until(lambda: self._of(secret) >= wanted, what="deliveries")

    async def no_more(self, secret: bytes) -> None:
        """Wait until none of this signer, who has left, is on its way."""
        await wait_until(lambda: not self._waiting[secret], what="the last deliveries")

    def _of(self, secret: bytes) -> int:
        return sum(n for (signer, _), n in self.answers.items() if signer == secret)


@asynccontextmanager
async def streaming(server: Server, senders: int = 3) -> AsyncIterator[Stream]:
    stream = Stream(server)
    tasks = [asyncio.create_task(stream.run()) for _ in range(senders)]
    try:
        yield stream
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def recorded(server: Server) -> int:
    text = (await server.text("/metrics")).decode()
    found = re.search(r'deliveries_total{outcome="ignored"} (\S+)', text)
    assert found is not None
    return int(float(found[1]))


async def test_the_webhook_secret_is_rotated_under_a_stream_of_deliveries(
    command_world: World,
) -> None:
    async with command_world.server() as server, streaming(server) as stream:
        changing = Configured(command_world, server)
        await stream.more(SECRET)
        assert await stream.one(NEW) == 401

        new = changing.write("webhook-new", NEW)
        changing.rewrite(
            r"^webhook_secret_file = (.*)$", rf'webhook_secret_file = ["{new}", \1]'
        )
        changing.hang_up()
        accepted = await until_status(stream, NEW, 202)
        both = itertools.cycle((SECRET, NEW))
        stream.sign = lambda: next(both)
        await stream.more(SECRET)
        await stream.more(NEW)
        stream.sign = lambda: NEW
        await stream.no_more(SECRET)
        await stream.more(NEW)

        changing.rewrite(
            r"^webhook_secret_file = .*$", f'webhook_secret_file = "{new}"'
        )
        changing.hang_up()
        accepted += await until_status(stream, SECRET, 401)
        await stream.more(NEW)
        stream.sign = lambda: b""
        await stream.no_more(NEW)
        await stream.more(b"", 10)
        detail = await changing.until("credentials", True)
        assert detail == "webhook secret, GitHub token"

        refused = {key for key in stream.answers if key[1] != 202}
        assert refused == {(b"", 401)}
        taken = sum(n for (_, status), n in stream.answers.items() if status == 202)
        assert await recorded(server) == taken + accepted
    said = [line["message"] for line in server.lines]
    assert said.count("secrets reloaded: webhook secret") == 2
    assert not any("restart to apply" in message for message in said)
    whole = "\n".join(server.raw)
    assert NEW.decode() not in whole
    assert SECRET.decode() not in whole


async def until_status(stream: Stream, secret: bytes, wanted: int) -> int:
    """Deliver until the answer is `wanted`; return how many were accepted."""
    accepted = 0

    async def answered() -> bool:
        nonlocal accepted
        status = await stream.one(secret)
        accepted += status == 202
        return status == wanted

    await wait_until(answered, what=f"an answer of {wanted}")
    return accepted


def script(world: World, body: str) -> str:
    return world.origin.commit({"ci": f"#!/bin/sh\n{body}\n"}, executable=["ci"])


async def test_statuses_stopped_by_401_resume_with_the_new_token_at_once(
    command_world: World,
) -> None:
    github = command_world.github
    github.tokens = {NEW_TOKEN}
    commit = script(command_world, "exit 0")
    async with command_world.server() as server:
        changing = Configured(command_world, server)
        await server.push(commit)
        await server.finished(1)
        assert "401" in await changing.until("statuses", False)
        asked = len(github.requests)
        # An empty file is no new token: nothing happens, and it is said.
        changing.write("token", b"")
        changing.hang_up()
        assert "token is empty" in await changing.until("credentials", False)
        assert len(github.requests) == asked
        changing.write("token", NEW_TOKEN.encode())
        changing.hang_up()
        await github.wait_for(commit, "success")
        await changing.until("credentials", True)
        await changing.until("statuses", True)
    said = [line["message"] for line in server.lines]
    assert "secrets reloaded: GitHub token" in said
    assert any(m.startswith("the old secrets stay: github.token_file") for m in said)


async def test_what_a_dead_token_cannot_fetch_waits_for_the_new_one(
    command_world: World,
) -> None:
    """A token that has expired is mended days later; no push of those days is lost."""
    world, commit = command_world, script(command_world, "exit 0")
    async with remote(world) as far, world.server() as server:
        changing = Configured(world, server)
        far.server.password, world.github.tokens = NEW_TOKEN, {NEW_TOKEN}
        await server.push(commit)
        assert "did not let us in" in await waits(server, 1)
        assert "did not let us in" in await changing.until("remotes", False)
        changing.write("token", NEW_TOKEN.encode())
        changing.hang_up()
        build = await server.finished(1)
        assert build["state"] == "succeeded"
        await world.github.wait_for(commit, "success")
        await changing.until("remotes", True)
    assert history(world, "SELECT counted FROM builds") == [(0,)]


def app_key() -> tuple[bytes, str]:
    """A private and a public key in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, public.decode()


class AppWorld(World):
    """A world whose server is a GitHub App instead of holding a token."""

    def write_configuration(self) -> Path:
        path = super().write_configuration()
        app = f'app_id = 4711\napp_key_file = "{self.folder}/app-key"'
        text = re.sub(r"^token_file = .*$", app, path.read_text(), flags=re.MULTILINE)
        path.write_text(text)
        return path


async def test_the_key_of_the_app_is_exchanged_too(command_world: World) -> None:
    world = AppWorld(**vars(command_world))
    github = world.github
    first, second = await asyncio.gather(
        asyncio.to_thread(app_key), asyncio.to_thread(app_key)
    )
    # On GitHub's side the first key was revoked already.
    github.apps = {"4711": second[1]}
    (world.folder / "app-key").write_bytes(first[0])
    commit = script(world, "exit 0")
    async with world.server() as server:
        changing = Configured(world, server)
        await server.push(commit)
        await server.finished(1)
        await changing.until("statuses", False)
        assert github.taken == []
        changing.write("app-key", second[0])
        changing.hang_up()
        await github.wait_for(commit, "success")


async def test_the_private_side_s_token_is_exchanged_and_never_dropped_by_mistake(
    command_world: World,
) -> None:
    command_world.extra = f'[api]\ntoken_file = "{command_world.folder}/api-token"'
    (command_world.folder / "api-token").write_text(API_TOKEN)
    async with command_world.server() as server:
        changing = Configured(command_world, server)

        async def allowed(token: str) -> bool:
            async with server.session.post(
                f"{server.private}/builds/1/cancel",
                headers={"Authorization": f"Bearer {token}"},
            ) as response:
                assert response.status in (401, 404)
                return response.status == 404

        assert await allowed(API_TOKEN)
        newer = f"newer-{API_TOKEN}"
        changing.write("api-token", newer.encode())
        changing.hang_up()
        await wait_until(lambda: allowed(newer), what="the new token")
        assert not await allowed(API_TOKEN)
        (changing.folder / "api-token").unlink()
        changing.hang_up()
        assert "does not exist" in await changing.until("credentials", False)
        assert await allowed(newer)
        assert not await allowed("")


async def test_who_closes_the_terminal_ends_the_server_that_ran_in_it(
    command_world: World,
) -> None:
    """There SIGHUP says that nobody can see the server any more, nor stop it."""
    config = await asyncio.to_thread(command_world.write_configuration)
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *command_world.command("serve", "--config", str(config)),
        env=dict(command_world.environ),
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(its)
    try:
        await asyncio.to_thread(_read_until, ours, b" is ready: ")
        process.send_signal(signal.SIGHUP)
        await asyncio.to_thread(_read_until, ours, b"none changed")
        os.close(ours)
        async with asyncio.timeout(PATIENCE):
            # 120 is Python's word for a last flush to a terminal that is gone.
            assert await process.wait() in (0, 120)
    finally:
        if process.returncode is None:
            process.kill()


def _read_until(terminal: int, words: bytes) -> None:
    """Read what the server says on its terminal up to `words`; a silence is no answer."""
    said = b""
    while words not in said:
        readable, _, _ = select.select([terminal], [], [], PATIENCE)
        assert readable, said
        said += os.read(terminal, 4096)


async def test_an_invalid_configuration_is_told_and_the_server_goes_on(
    command_world: World,
) -> None:
    async with command_world.server() as server:
        changing = Configured(command_world, server)
        changing.rewrite(r"^\[build\]$", "[biuld]")
        changing.hang_up()
        assert "biuld: unknown key" in await changing.until("configuration", False)
        status, _ = await server.deliver(PING, event="ping")
        assert status == 202
        changing.rewrite(r"^\[biuld\]$", "[build]\nparallel = 3")
        changing.hang_up()

        async def mended() -> bool:
            return await changing.check("configuration") is None

        await wait_until(mended, what="the end of the alarm")
        assert await server.stop() == 0
    said = [line["message"] for line in server.lines]
    assert any(m.startswith("nothing was reloaded: biuld: unknown") for m in said)
    assert "the configuration changed; restart to apply it (build.parallel)" in said


async def test_github_s_token_is_shown_to_github_alone(command_world: World) -> None:
    """A repository may be cloned from elsewhere: from a mirror, say."""
    world = command_world
    world.program = impatient.PROGRAM
    world.build |= {"sandbox": False}
    seen = []
    async with git_server(world.origin) as far:
        secure = far.url.replace("http://", "https://")
        # GitHub's stand-in is at 127.0.0.1; the other name is another host.
        for number, host in enumerate(("127.0.0.1", "localhost"), 1):
            world.repository["url"] = secure.replace("127.0.0.1", host)
            far.authorizations.clear()
            sha = await asyncio.to_thread(script, world, f"true {host}")
            async with world.server() as server:
                await server.push(sha)
                assert (await server.finished(number))["state"] == "succeeded"
                await server.stop()
            seen.append({bool(each) for each in far.authorizations})
    assert seen == [{True}, {False}]
