"""Worlds for tests of faults: no Nix, many beside each other, a server that can be hurt."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.end_to_end.server import REPO, World
from tests.fakes import mortal_server, tree
from tests.fakes.github import FakeGitHub
from tests.fakes.push import GITHUB_ID, encode, make_commit, make_push
from tests.fakes.repository import Origin
from tests.fakes.waiting import PATIENCE


@asynccontextmanager
async def mortal_world(folder: Path) -> AsyncIterator[World]:
    """A world in `folder` whose server runs `./ci` of each commit and takes orders.

    See tests/fakes/mortal_server.py for the orders. GitHub's stand-in is stopped at the
    end, and then nothing that it was asked may have been against its rules.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(tree.CHECKOUT),
    }
    async with FakeGitHub() as github:
        world = World(folder, Origin(folder / "origin.git"), github, environ, "nix")
        world.program = (str(mortal_server.PROGRAM),)
        world.repository = {"builder": "command", "command": ["./ci"]}
        world.build = {"sandbox": False}
        yield world


def script(body: str) -> dict[str, str]:
    """The files of a commit whose build runs `body`; its `ci` must be executable."""
    return {"ci": f"#!/bin/sh\n{body}\n"}


def gate(folder: Path, name: str) -> str:
    """A script that says it is there (`.reached`), and waits until `open_gate`."""
    file = folder / name
    return f"touch {file}.reached; until test -e {file}; do sleep 0.02; done"


def open_gate(folder: Path, name: str) -> None:
    (folder / name).touch()


def push_payload(sha: str, *, before: str) -> dict[str, Any]:
    """What tells of one commit on `dev`."""
    commit = make_commit(sha, f"commit {sha[:7]}")
    return make_push([commit], before=before, repo=REPO, github_id=GITHUB_ID)


def push_of(sha: str, *, before: str) -> bytes:
    """The body of the delivery that does."""
    return encode(push_payload(sha, before=before))


async def serve_once(world: World, **extra_environ: str) -> tuple[int, str]:
    """Start a server that is not expected to live; return its exit code and last words."""
    config = await asyncio.to_thread(world.write_configuration)
    process = await asyncio.create_subprocess_exec(
        *world.command("serve", "--config", str(config)),
        env={**world.environ, **extra_environ},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=world.folder,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, said.decode()
