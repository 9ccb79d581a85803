"""`build-server init`: what it makes, and that it can be run again at any point."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import tomllib
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from ci import config
from ci.init import ways
from tests.fakes.github_hooks import Hook
from tests.fakes.push import REPO
from tests.fakes.tailscale import HOST, Tailscale
from tests.fakes.waiting import wait_until
from tests.init.conftest import DEADLINE, HOOK, Newcomer


async def _pinged(hook: Hook, times: int = 1) -> None:
    await wait_until(lambda: len(hook.attempts) >= times, what="a ping of GitHub's")


async def test_one_run_makes_everything_and_the_second_changes_nothing(
    newcomer: Newcomer,
) -> None:
    first = await newcomer.run(newcomer.usual("--cache"))
    assert first.code == 0, first.said
    settings = await newcomer.settings()
    assert settings.repositories[0].name == REPO
    assert settings.repositories[0].branches == ("dev",)
    secret = newcomer.secret.read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", secret)
    assert newcomer.secret.stat().st_mode & 0o777 == 0o600
    assert newcomer.secret.parent.stat().st_mode & 0o777 == 0o700
    (hook,) = newcomer.github.hooks.hooks
    assert (hook.repo, hook.url, hook.secret) == (REPO, HOOK, secret.encode())
    assert (hook.content_type, hook.events, hook.insecure_ssl) == (
        "json",
        ("push",),
        "0",
    )
    await _pinged(hook)
    assert settings.cache is not None
    assert settings.cache.public_key in first.said
    assert f"next: build-server serve --config {newcomer.config}" in first.said
    assert "✓ token          token of octocat" in first.said
    files, updated = newcomer.files(), hook.updated
    second = await newcomer.run(newcomer.usual("--cache"))
    assert second.code == 0, second.said
    assert "✓ webhook" not in second.said
    assert second.said.count("unchanged") == 3
    assert newcomer.files() == files
    assert newcomer.github.hooks.hooks == [hook]
    assert hook.updated == updated
    # Asked for by the second run.
    await _pinged(hook, 2)
    assert secret not in first.said + second.said


async def test_without_a_token_it_says_what_to_click(newcomer: Newcomer) -> None:
    ran = await newcomer.run(newcomer.arguments("--webhook-url", HOOK))
    assert ran.code == 0, ran.said
    assert f"https://github.com/{REPO}/settings/hooks/new" in ran.said
    assert f"Payload URL  {HOOK}" in ran.said
    assert f"the content of {newcomer.secret}" in ran.said
    secret = newcomer.secret.read_text().strip()
    assert secret not in ran.said
    shown = await newcomer.run(newcomer.arguments("--show-secret"))
    assert f"Secret       {secret}" in shown.said


@pytest.mark.parametrize("allowed", ["none", "read"])
async def test_a_token_that_may_not_is_told_what_is_missing(
    newcomer: Newcomer, allowed: str
) -> None:
    newcomer.github.hooks.allowed = allowed
    ran = await newcomer.run(newcomer.usual())
    assert ran.code == 0, ran.said
    assert "Webhooks: Read and write" in ran.said
    assert f"https://github.com/{REPO}/settings/hooks/new" in ran.said
    assert newcomer.github.hooks.hooks == []


async def test_a_webhook_that_is_wrong_is_put_right_and_others_stay(
    newcomer: Newcomer,
) -> None:
    hooks = newcomer.github.hooks
    stranger = hooks.add(REPO, "https://chat.example.com/t0ps3cret", hook_id=29)
    ours = hooks.add(REPO, "http://127.0.0.1:1/wrong", hook_id=30)
    ours.content_type, ours.events, ours.active = "form", ("issues",), False
    before = (stranger.url, stranger.secret, stranger.events)
    ran = await newcomer.run(newcomer.usual())
    assert ran.code == 0, ran.said
    assert "hook 30 of octo-org/hello put right" in ran.said
    assert (ours.url, ours.content_type, ours.active) == (HOOK, "json", True)
    assert ours.secret == newcomer.secret.read_text().strip().encode()
    assert set(ours.events) == {"issues", "push"}
    assert (stranger.url, stranger.secret, stranger.events) == before
    assert "t0ps3cret" not in ran.said
    await _pinged(ours)


async def test_a_file_that_wants_no_webhook_gets_none(newcomer: Newcomer) -> None:
    newcomer.folder.mkdir()
    text = f'state_dir = "{newcomer.home}/state"\n[github]\nwebhook = false\n'
    text += f'[[repository]]\nname = "{REPO}"\n'
    newcomer.config.write_text(text)
    ran = await newcomer.run(newcomer.arguments())
    assert ran.code == 0, ran.said
    assert newcomer.files() == {"config.toml": text.encode()}
    assert "webhook" not in ran.said
    assert newcomer.github.requests == []


async def test_a_secret_that_is_newer_than_the_webhook_is_told_to_github(
    newcomer: Newcomer,
) -> None:
    hook = newcomer.github.hooks.add(REPO, HOOK)
    hook.updated -= timedelta(hours=1)
    ran = await newcomer.run(newcomer.usual())
    assert "it has the new secret now" in ran.said
    assert hook.secret == newcomer.secret.read_text().strip().encode()


async def test_what_is_there_is_never_overwritten_unless_forced(
    newcomer: Newcomer,
) -> None:
    await newcomer.run(newcomer.arguments())
    newcomer.config.write_text(newcomer.config.read_text() + "# mine\n")
    files = newcomer.files()
    ran = await newcomer.run(newcomer.arguments("--branch", "main", "--cache"))
    assert ran.code == 1
    assert "repository.branches: there it is dev, asked for is main" in ran.said
    assert "cache.public_key: there it is not set" in ran.said
    assert newcomer.files() == files
    forced = await newcomer.run(newcomer.arguments("--branch", "main", "--force"))
    assert forced.code == 0, forced.said
    after = newcomer.files()
    assert after.pop("config.toml.1") == files["config.toml"]
    assert after["secrets/webhook-secret"] == files["secrets/webhook-secret"]
    settings = await newcomer.settings()
    assert settings.repositories[0].branches == ("main",)
    assert str(settings.state_dir) == str(newcomer.home / "state")


async def test_forced_it_keeps_what_was_written_by_hand(newcomer: Newcomer) -> None:
    await newcomer.run(newcomer.arguments())
    text = newcomer.config.read_text()
    byhand = text.replace("[build]", "[build]\nparallel = 7\ntimeout = '3h'")
    newcomer.config.write_text(byhand)
    same = await newcomer.run(newcomer.arguments("--set=github.reconcile_every=10m"))
    assert same.code == 0, same.said
    forced = await newcomer.run(newcomer.arguments("--branch=main", "--force"))
    assert forced.code == 0, forced.said
    settings = await newcomer.settings()
    assert (settings.build.parallel, settings.build.timeout) == (7, 3 * 3600)
    two = f'{newcomer.config.read_text()}\n[[repository]]\nname = "a/b"\n'
    newcomer.config.write_text(two)
    refused = await newcomer.run(newcomer.arguments("--branch=dev", "--force"))
    assert refused.code == 1
    assert "change it by hand" in refused.said
    assert newcomer.config.read_text() == two


async def test_what_nobody_told_is_named(newcomer: Newcomer) -> None:
    elsewhere = newcomer.home / "checkout" / ".git" / "config"
    elsewhere.write_text("")
    ran = await newcomer.run(newcomer.arguments())
    assert ran.code == 2
    assert "--repo OWNER/NAME is missing" in ran.said
    assert not newcomer.folder.exists()


async def test_a_bad_answer_is_refused_before_anything_is_written(
    newcomer: Newcomer,
) -> None:
    ran = await newcomer.run(newcomer.arguments("--repo", "https://github.com/a/b"))
    assert ran.code == 2
    assert "is not owner/name" in ran.said
    assert not newcomer.folder.exists()


async def test_the_tailnet_gives_the_addresses(newcomer: Newcomer) -> None:
    program = await asyncio.to_thread(Tailscale.installed, newcomer.home / "more")
    environ = {**newcomer.environ, **program.env, "PATH": newcomer.path}
    process = await asyncio.create_subprocess_exec(
        *newcomer.arguments("--set=github.api_url=http://127.0.0.1:1"),
        cwd=newcomer.home / "checkout",
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        said, _ = await process.communicate()
    written = tomllib.loads(newcomer.config.read_text())
    assert written["public_url"] == f"http://{HOST}:8000"
    assert written["allowed_hosts"] == [HOST.partition(".")[0]]
    assert written["github"]["public_webhook_url"] == f"https://{HOST}/webhook"
    # Nobody listens there yet: both listeners are on loopback.
    commands = re.findall("^ +(tailscale .+)$", said.decode(), re.MULTILINE)
    assert commands == [
        "tailscale funnel --bg --yes --https=443 --set-path=/webhook "
        "http://127.0.0.1:8010/webhook",
        "tailscale serve --bg --http=8000 http://127.0.0.1:8000",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", ["tailscale serve --bg --http=8000 http://127.0.0.1:8000"]),
        ('public_url = "https://b.t.ts.net:8443"', ["--https=8443 http://127"]),
        ('public_url = "http://build-server:8000"', []),
        ('listen.private = "100.64.0.1:8000"', []),
        ('listen.private = "unix:/run/b/private"', []),
        ('github.public_webhook_url = "https://b.t.ts.net:8443/webhook"', ["8443", ""]),
        ('github.public_webhook_url = "https://hooks.example/webhook"', [""]),
    ],
)
def test_only_what_tailscale_leads_to_loopback_is_opened(
    change: str, expected: list[str]
) -> None:
    table = tomllib.loads(change)
    document = {"public_url": "http://b.t.ts.net:8000", "repository": [{"name": "a/b"}]}
    commands = ways.commands(config.parse({**document, **table}))
    assert len(commands) == len(expected), commands
    for command, part in zip(commands, expected, strict=True):
        assert part in command


@pytest.mark.parametrize("line", range(4))
async def test_killed_after_any_line_it_can_be_run_again(
    newcomer: Newcomer, line: int
) -> None:
    process = await newcomer.start(newcomer.usual("--cache"))
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        for _ in range(line + 1):
            await process.stdout.readline()
    # It may have come to its end meanwhile.
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    await process.wait()
    ran = await newcomer.run(newcomer.usual("--cache"))
    assert ran.code == 0, ran.said
    settings = await newcomer.settings()
    assert settings.cache is not None
    (hook,) = newcomer.github.hooks.hooks
    assert hook.secret == newcomer.secret.read_text().strip().encode()
    names = {Path(name).name for name in newcomer.files()}
    assert names == {"config.toml", "webhook-secret", "cache-key"}
    await _pinged(hook)


class Answers:
    """A terminal at which somebody answers each question."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._shown = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self._shown += os.read(self._master, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)
        self._more.set()

    async def answer(self, question: str, words: str) -> None:
        async with asyncio.timeout(DEADLINE):
            while question.encode() not in self._shown:
                self._more.clear()
                await self._more.wait()
        self._shown = b""
        os.write(self._master, words.encode() + b"\n")


async def test_at_a_terminal_it_asks(newcomer: Newcomer) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *newcomer.arguments(),
        cwd=newcomer.home / "checkout",
        env=newcomer.environ,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    terminal = Answers(master)
    await terminal.answer("signing key", "y")
    await terminal.answer(f"Repository on GitHub (owner/name) [{REPO}]", "")
    await terminal.answer("Branch to build [dev]", "main")
    await terminal.answer("Address of the pages", "http://ci.example.com:8000")
    await terminal.answer("Address of the webhook", "")
    await terminal.answer("File with a GitHub token", str(newcomer.token))
    async with asyncio.timeout(DEADLINE):
        assert await process.wait() == 0
    settings = await newcomer.settings()
    assert settings.repositories[0].branches == ("main",)
    assert settings.public_url == "http://ci.example.com:8000"
    assert settings.github.token_file == newcomer.token
    assert settings.cache is not None
    assert settings.cache.public_key.startswith("ci.example.com-1:")
