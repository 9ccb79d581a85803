"""The real server as its own process, its log in a file: nothing of ours reads along."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ci.history.paths import database_path
from tests.end_to_end.server import World
from tests.fakes.github import FakeGitHub
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

_READY = re.compile(r"is ready: private (\S+), public (\S+?)\"")


@dataclass(frozen=True)
class Service:
    """A server that is ready; `started` is the monotonic clock at its spawning."""

    world: World
    process: asyncio.subprocess.Process
    private: str
    public: str
    started: float

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        """Where pushes are accepted."""
        return int(self.public.rpartition(":")[2])

    @property
    def database(self) -> Path:
        return database_path(self.world.state_dir)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        await self.process.wait()


@asynccontextmanager
async def world(
    environ: Mapping[str, str] | None = None, nix: str = "nix"
) -> AsyncIterator[World]:
    """A folder of its own with an origin and GitHub's stand-in, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="bs-bench-") as name:
        folder = Path(name)
        async with FakeGitHub() as github:
            yield World(
                folder,
                Origin(folder / "origin.git"),
                github,
                environ or {"PATH": os.environ["PATH"], "HOME": name},
                nix,
            )


@asynccontextmanager
async def service(world: World) -> AsyncIterator[Service]:
    """The server of a world, ready; killed at the end unless it has been stopped."""
    config = world.write_configuration()
    log = world.folder / "server.log"
    log.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ci",
            "serve",
            "--config",
            str(config),
            env=dict(world.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=output,
            cwd=world.folder,
        )
    try:
        found = await wait_until(
            lambda: _ready(log, process), 20, what="the server being ready"
        )
        assert found is not None
        yield Service(world, process, found[1], found[2], started)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _ready(log: Path, process: asyncio.subprocess.Process) -> re.Match[str] | None:
    said = log.read_text()
    assert process.returncode is None, f"the server did not start:\n{said}"
    return _READY.search(said)
