"""Runs the demo and shows it: what is pushed, the builds' logs live, what GitHub hears."""

from __future__ import annotations

import asyncio
import json
import os
import secrets as randomness
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import aiohttp
from aiohttp import web

from ci import app, config
from ci.adapters import sandbox
from ci.credentials import Credentials
from ci.demo import origin
from ci.demo.github import StandIn
from ci.errors import ConfigurationError

SYMBOLS = {"succeeded": "✓", "failed": "✗", "error": "!", "pending": "●"}
CONFIGURATION = """\
# Written by `build-server demo`. GitHub and the store are this machine's own.
state_dir  = "{folder}/state"
public_url = "http://localhost:{port}"

[listen]
public  = "127.0.0.1:0"
private = "127.0.0.1:{port}"

[github]
api_url             = "{github}"
webhook_secret_file = "{folder}/webhook-secret"
token_file          = "{folder}/token"

[build]
sandbox = {sandbox}

[[repository]]
name = "{repo}"
url  = "{folder}/repository"
"""
# A store of its own: the demo leaves nothing behind in /nix, and needs no daemon.
NIX_CONF = """\
experimental-features = nix-command flakes
sandbox = false
substituters =
flake-registry =
build-users-group =
"""


class Screen:
    """Lines for people; colour only on a terminal that wants it."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._colour = stream.isatty() and not environ.get("NO_COLOR")

    def line(self, text: str = "", style: str = "") -> None:
        if style and self._colour:
            text = f"\x1b[{style}m{text}\x1b[0m"
        print(text, file=self._stream, flush=True)


async def demo(*, once: bool, port: int, environ: Mapping[str, str]) -> int:
    """Show three pushed commits being built; return 0 when all went as foreseen."""
    screen = Screen(sys.stdout, environ)
    async with _folder(environ) as folder:
        stand_in = StandIn(
            lambda sha, state, text: screen.line(
                f"   GitHub hears  {sha[:7]}  {state:8} {text}", "36"
            )
        )
        async with _served(stand_in.application()) as github:
            settings = await _configure(folder, _free_port(port), github, screen)
            pushes = await origin.make(folder / "repository", environ["PATH"])
            nix = _private_store(folder)
            secrets = config.read_secrets(settings, environ)
            credentials = Credentials(settings, secrets, environ)
            async with app.running(settings, credentials, {**environ, **nix}) as server:
                _introduce(screen, folder, server.addresses)
                states = await _push_all(
                    screen, server.addresses, pushes, folder, environ["PATH"]
                )
                await server.statuses_posted(timeout=30)
                if not once:
                    await _stay(screen, server.addresses)
    good = states == ["succeeded", "failed", "succeeded"]
    screen.line()
    screen.line(
        "three commits, three honest verdicts: good, broken, mended"
        if good
        else f"that is not what was foreseen: {states}",
        "32" if good else "31",
    )
    return 0 if good else 1


@asynccontextmanager
async def _folder(environ: Mapping[str, str]) -> AsyncIterator[Path]:
    """A fresh folder in the user's cache: today's Nix refuses stores below /tmp."""
    home = environ.get("XDG_CACHE_HOME") or f"{environ.get('HOME', '/var/tmp')}/.cache"  # noqa: S108 — a fallback
    parent = Path(home) / "build-server"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=parent))
    try:
        yield folder
    finally:
        await asyncio.to_thread(_remove, folder)


def _remove(folder: Path) -> None:
    for root, names, _ in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)


@asynccontextmanager
async def _served(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _configure(
    folder: Path, port: int, github: str, screen: Screen
) -> config.Settings:
    works, why = await sandbox.available()
    if not works:
        screen.line(f"! without a sandbox, as in `sandbox = false`: {why}", "33")
    secret_files = {
        "webhook-secret": randomness.token_hex(32),
        "token": randomness.token_hex(16),
    }
    for name, value in secret_files.items():
        (folder / name).write_text(value)
    path = folder / "config.toml"
    path.write_text(
        CONFIGURATION.format(
            folder=folder,
            port=port,
            github=github,
            sandbox=str(works).lower(),
            repo=origin.REPO,
        )
    )
    return config.load(path, environ={})


def _free_port(wanted: int) -> int:
    """The wanted port of 127.0.0.1, or another one when somebody has it."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ConfigurationError(["no port of 127.0.0.1 is free"])


def _private_store(folder: Path) -> dict[str, str]:
    conf = folder / "nix" / "etc"
    conf.mkdir(parents=True)
    (conf / "nix.conf").write_text(NIX_CONF)
    return {
        "NIX_CONF_DIR": str(conf),
        "NIX_STORE_DIR": str(folder / "nix" / "store"),
        "NIX_STATE_DIR": str(folder / "nix" / "var"),
        "NIX_LOG_DIR": str(folder / "nix" / "log"),
        "NIX_REMOTE": "",
    }


def _introduce(screen: Screen, folder: Path, addresses: Mapping[str, str]) -> None:
    screen.line("build-server demo: real git, Nix, SQLite and HTTP; only GitHub is not")
    screen.line(f"   repository    {folder}/repository, branch dev")
    screen.line(f"   webhook       {addresses['public']}/webhook")
    screen.line(f"   status        {addresses['private']}/build/status")


async def _push_all(
    screen: Screen,
    addresses: Mapping[str, str],
    pushes: list[origin.Push],
    folder: Path,
    path: str,
) -> list[str]:
    """Push each commit by a signed webhook and follow its build; return the states."""
    secret = (folder / "webhook-secret").read_bytes()
    states = []
    async with aiohttp.ClientSession() as session:
        for number, push in enumerate(pushes, 1):
            body = push.body()
            await origin.arrive(folder / "repository", path, push)
            screen.line()
            screen.line(f"── push {number} of {len(pushes)}: {push.title}", "1")
            async with session.post(
                f"{addresses['public']}/webhook",
                data=body,
                headers=origin.headers(body, secret, f"demo-{number}"),
            ) as response:
                answer = await response.json()
                screen.line(f"   webhook       {response.status} {json.dumps(answer)}")
            build = await _follow(
                screen, session, addresses["private"], answer["builds"][0]
            )
            states.append(build["state"])
    return states


async def _follow(
    screen: Screen, session: aiohttp.ClientSession, private: str, number: int
) -> dict[str, Any]:
    """Show the log of each attempt until there is a verdict; return the build."""
    while True:
        async with session.get(
            f"{private}/builds/{number}/log", params={"follow": "1"}
        ) as log:
            async for line in log.content:
                screen.line(f"   │ {line.decode(errors='replace').rstrip()}", "2")
        async with session.get(f"{private}/builds/{number}.json") as response:
            build: dict[str, Any] = await response.json()
        if build["finished_at"] is not None:
            break
    good = build["state"] == "succeeded"
    screen.line(
        f"   {SYMBOLS.get(build['state'], '·')} #{number} {build['state']} in "
        f"{build['seconds']:.1f}s: {build['summary']}",
        "32" if good else "31",
    )
    return build


async def _stay(screen: Screen, addresses: Mapping[str, str]) -> None:
    screen.line()
    screen.line(
        f"it keeps running; open {addresses['private']} in a browser, or try in"
    )
    screen.line("another terminal, then end it with Ctrl-C:")
    programs = "" if shutil.which("bs") else f"{Path(sys.executable).parent}/"
    for command in ("bs", "bl", "bt --force -f"):
        screen.line(f"   {programs}{command} --server {addresses['private']}")
    await asyncio.Event().wait()
