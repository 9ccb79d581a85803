"""The clients as real programs, asking a real private application on a real socket."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from ci.adapters.metrics import Metrics
from ci.serve.service import SERVICE
from tests.client.programs import Programs
from tests.fakes import tree
from tests.fakes.ports import keep_port, port_of
from tests.serve.conftest import VERSION, Served, served

__all__ = ["served"]

NAMES = (
    "bt",
    "bs",
    "bl",
    "build-trigger",
    "build-status",
    "build-logs",
    "build-client",
)
PROGRAM = """#!{python}
import sys
from ci.client.main import main
sys.exit(main())
"""


@dataclass
class House(Programs):
    """The clients, the server they ask, and its history."""

    served: Served = field(kw_only=True)
    _kept: socket.socket = field(default_factory=keep_port)
    _runner: web.AppRunner | None = None

    @property
    def port(self) -> int:
        """Ours between two runs of the server, too."""
        return port_of(self._kept)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def application(self) -> web.Application:
        """That of another process over the same history, which counts anew."""
        self.served.metrics = Metrics(VERSION)
        return self.served.application()

    async def open(self) -> None:
        """Start the server, each time on the same port."""
        self._runner = web.AppRunner(
            self.application(), handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.environ["BUILD_SERVER_URL"] = self.url

    async def close(self) -> None:
        """Stop the server as its own stop does."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def leave(self) -> None:
        """Stop it for good: the port may be anybody's."""
        await self.close()
        self._kept.close()

    @property
    def application_now(self) -> web.Application:
        """The one that answers now."""
        assert self._runner is not None
        application = self._runner.app
        assert isinstance(application, web.Application)
        return application

    def followers(self) -> int:
        """How many follow a log now."""
        return self.application_now[SERVICE].watches.readers

    async def retime(self, build: int, **ago: float) -> None:
        """Move `queued`, `started`, `finished` to so many seconds before now."""
        await self.served.database.write(_retime, build, ago)

    async def end_target(self, build: int, name: str, state: str, error: str) -> None:
        """What the scheduler writes when one target of a running build has ended."""
        await self.served.database.write(_end_target, build, name, state, error)
        self.served.wake()

    def append(self, build: int, data: bytes, attempt: int = 1) -> None:
        """What a builder writes."""
        path = self.served.log_path(build, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)
        self.served.hub.ring(path)


def _retime(
    connection: sqlite3.Connection, build: int, ago: Mapping[str, float]
) -> None:
    for name, seconds in ago.items():
        connection.execute(
            f"UPDATE builds SET {name}_at = ? WHERE number = ?",  # noqa: S608 - our own names
            (int((time.time() - seconds) * 1000), build),
        )


def _end_target(
    connection: sqlite3.Connection, build: int, name: str, state: str, error: str
) -> None:
    connection.execute(
        "UPDATE targets SET state = ?, seconds = 8, error = ? "
        "WHERE build = ? AND name = ?",
        (state, error or None, build, name),
    )
    # With each change of the targets the sentence is written, and that is the news.
    connection.execute("UPDATE builds SET summary = summary WHERE number = ?", (build,))


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once for all runs, as in an installation."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def programs(tmp_path: Path, bytecode: Path) -> Programs:
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    for name in NAMES:
        (directory / name).symlink_to(program)
    environ = {
        "PATH": os.environ["PATH"],
        # Nothing may open a browser.
        "BROWSER": "true",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "TZ": "UTC",
        "PYTHONPATH": str(tree.CHECKOUT),
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONWARNINGS": "error",
        "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"],
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    return Programs(directory, environ)


@pytest.fixture
async def house(served: Served, programs: Programs) -> AsyncIterator[House]:
    async with open_house(served, programs) as opened:
        yield opened


@asynccontextmanager
async def open_house(served: Served, programs: Programs) -> AsyncIterator[House]:
    opened = House(programs.directory, dict(programs.environ), served=served)
    try:
        await opened.open()
        yield opened
    finally:
        await opened.leave()
