"""A newcomer's machine: a home, a checkout, a few programs, and GitHub's stand-in."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci import config
from ci.config import Settings
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.push import REPO

HOOK = "http://127.0.0.1:1/webhook"
# Of one run, which takes a second where nobody is in its way.
DEADLINE = 120.0


@dataclass(frozen=True)
class Ran:
    """How a run of `init` ended; both of its sides are in `said`."""

    code: int
    said: str


@dataclass
class Newcomer:
    """Runs `build-server init` as a program, in a checkout whose origin is REPO."""

    home: Path
    github: FakeGitHub
    path: str

    @property
    def folder(self) -> Path:
        return self.home / "conf"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def secret(self) -> Path:
        return self.folder / "secrets" / "webhook-secret"

    @property
    def token(self) -> Path:
        return self.home / "token"

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": self.path, "HOME": str(self.home)}

    def arguments(self, *more: str) -> list[str]:
        where = ("--config", str(self.config), "--state-dir", str(self.home / "state"))
        return [sys.executable, "-m", "ci", "init", *where, *more]

    def usual(self, *more: str) -> list[str]:
        """With a token, and an address for the webhook."""
        api = f"--set=github.api_url={self.github.url}"
        token = ("--token-file", str(self.token), "--webhook-url", HOOK)
        return self.arguments(api, *token, *more)

    async def start(self, arguments: list[str]) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *arguments,
            cwd=self.home / "checkout",
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, arguments: list[str]) -> Ran:
        process = await self.start(arguments)
        async with asyncio.timeout(DEADLINE):
            said, _ = await process.communicate()
        return Ran(process.returncode or 0, said.decode())

    async def settings(self) -> Settings:
        """What `serve` would read, secrets included."""
        return await asyncio.to_thread(config.load, self.config, environ={})

    def files(self) -> dict[str, bytes]:
        """Everything below the folder of the configuration."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@pytest.fixture
async def newcomer(tmp_path: Path) -> AsyncIterator[Newcomer]:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    # Without Nix or bubblewrap the doctor at the end is quick, and has something to say.
    (programs / "git").symlink_to("/usr/bin/git")
    origin = f"git@github.com:{REPO}.git"
    for command in (["init", "-q", "."], ["remote", "add", "origin", origin]):
        await asyncio.to_thread(
            subprocess.run, ["git", *command], cwd=checkout, check=True
        )
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    path = f"{programs}{os.pathsep}{tmp_path / 'more'}"
    async with FakeGitHub() as github:
        yield Newcomer(tmp_path, github, path)
