"""A private application on a real socket, over a real history."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from ci.adapters.logs import LogHub
from ci.adapters.metrics import Metrics
from ci.config import Secrets, Settings, parse
from ci.history import instances, paths, progress, queue, repositories, states
from ci.history.database import Database
from ci.models import BuildState, Cause, Check, Commit, Target
from ci.serve.api import private_application
from ci.serve.service import SERVICE, FirstRun
from ci.wake import Wake

REPO = "owner/name"
CONTEXT = "build-server"
VERSION = "1.2.3"
KEY = "key-1:" + "A" * 43 + "="
HEALTHY = [
    Check("database", True, "writable", "mend it"),
    Check("cache", True, "answers"),
]

Private = TestClient[web.Request, web.Application]


def sha(number: int) -> str:
    return f"{number:07x}".ljust(40, "a")


def document(state_dir: Path, **keys: object) -> dict[str, object]:
    """A configuration with one repository, as TOML gives it."""
    return {
        "state_dir": str(state_dir),
        "public_url": "http://build-server:8000",
        "repository": [{"name": REPO, "branches": ["dev", "main"]}],
        **keys,
    }


@dataclass
class Served:
    """One server under test, and short ways to what its history should hold."""

    settings: Settings
    database: Database
    secrets: Secrets = field(default_factory=Secrets)
    wake: Wake = field(default_factory=Wake)
    hub: LogHub = field(default_factory=LogHub)
    metrics: Metrics = field(default_factory=lambda: Metrics(VERSION))
    found: list[Check] = field(default_factory=lambda: list(HEALTHY))
    held: str = ""
    # Longer than any `desk` needs on a slow machine.
    patience: float = 60.0

    async def checks(self) -> list[Check]:
        return self.found

    def application(
        self,
        checks: Callable[[], Awaitable[list[Check]]] | None = None,
        first_run: FirstRun | None = None,
    ) -> web.Application:
        return private_application(
            settings=self.settings,
            secrets=lambda: self.secrets,
            database=self.database,
            wake=self.wake,
            hub=self.hub,
            metrics=self.metrics,
            checks=checks or self.checks,
            version=VERSION,
            first_run=first_run,
            waits=lambda: self.held,
            patience=self.patience,
        )

    async def add(
        self,
        number: int,
        state: BuildState = BuildState.QUEUED,
        *,
        targets: tuple[Target, ...] = (),
        branch: str | None = "dev",
        repo: str = REPO,
        title: str = "",
        summary: str = "",
        log: bytes | None = None,
    ) -> int:
        """A build of commit `number` in that state; `log` is what its attempt wrote."""
        build = await self.database.write(
            _add,
            number,
            state,
            targets,
            branch,
            repo,
            title or f"commit {number}",
            summary,
        )
        if log is not None:
            path = self.log_path(build)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(log)
        return build

    async def begin(self, build: int) -> None:
        """The next attempt of a build that waits."""
        await self.database.write(_begin, build)
        self.wake()

    async def finish(self, build: int, state: BuildState = BuildState.FAILED) -> None:
        """The end of the attempt that runs, as the scheduler makes it known."""
        await self.database.write(_finish, build, state, (), "")
        self.hub.finished(self.log_path(build))
        self.wake()

    async def cancel(self, build: int) -> None:
        """The end of a build that waits."""
        await self.database.write(
            states.end_queued,
            build,
            BuildState.CANCELLED,
            reason="cancelled by Ada",
            at=4_000_000,
            context=CONTEXT,
        )
        self.wake()

    async def put_back(self, build: int) -> None:
        """The end of an attempt that a fault of ours interrupted."""
        await self.database.write(
            states.requeue,
            build,
            reason="the network is down",
            counted=False,
            not_before=9_000_000,
            at=4_000_000,
            seconds=1.0,
        )
        self.hub.finished(self.log_path(build))
        self.wake()

    def following(self, client: Private) -> int:
        """How many follow a log of the application behind `client`."""
        return client.app[SERVICE].watches.readers if client.app else 0

    async def retry(self, build: int) -> None:
        """Back into the queue."""
        await self.database.write(states.reopen, build, at=4_000_000, context=CONTEXT)
        self.wake()

    def log_path(self, build: int, attempt: int = 1) -> Path:
        return paths.log_path(self.settings.state_dir, build, attempt)


def _add(
    connection: sqlite3.Connection,
    number: int,
    state: BuildState,
    targets: tuple[Target, ...],
    branch: str | None,
    repo: str,
    title: str,
    summary: str,
) -> int:
    (build,) = queue.enqueue(
        connection,
        repositories.identify(connection, repo),
        branch,
        [Commit(sha(number), title, "Ada")],
        cause=Cause.PUSH,
        head=sha(number),
        at=1_000_000 + number,
        context=CONTEXT,
    )
    if state is BuildState.QUEUED:
        return build
    if state is BuildState.SKIPPED:
        states.end_queued(
            connection, build, state, reason="skipped", at=2_000_000, context=CONTEXT
        )
        return build
    _begin(connection, build)
    if targets:
        progress.set_targets(connection, build, targets)
    if state is not BuildState.RUNNING:
        _finish(connection, build, state, targets, summary)
    return build


def _begin(connection: sqlite3.Connection, build: int) -> None:
    """Claim this build and no other."""
    later = 5_000_000
    connection.execute(
        "UPDATE builds SET not_before = ? WHERE number <> ?", (later, build)
    )
    claimed = queue.claim(connection, instance=1, at=2_000_000, context=CONTEXT)
    connection.execute("UPDATE builds SET not_before = 0")
    assert claimed is not None
    assert claimed.number == build


def _finish(
    connection: sqlite3.Connection,
    build: int,
    state: BuildState,
    targets: tuple[Target, ...],
    summary: str,
) -> None:
    states.finish(
        connection,
        build,
        state,
        summary=summary,
        targets=targets,
        at=3_000_000,
        seconds=1000.0,
        context=CONTEXT,
    )


def _prepare(connection: sqlite3.Connection) -> None:
    instances.begin(connection, boot_id="boot", pid=1, pid_start=1, at=0)


@pytest.fixture
async def served(tmp_path: Path, database: Database) -> Served:
    await database.write(_prepare)
    return Served(parse(document(tmp_path)), database)


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Private]:
    async with TestClient(TestServer(served.application())) as opened:
        yield opened


async def error_of(
    client: Private, method: str, path: str, status: int, **how: Any
) -> Mapping[str, Any]:
    """The body of a refusal, which must have the one shape."""
    async with client.request(method, path, **how) as response:
        body: dict[str, Any] = await response.json()
        assert response.status == status, body
        assert set(body) == {"error", "status", "detail"}
        assert body["status"] == status
        assert isinstance(body["error"], str)
        assert isinstance(body["detail"], dict)
        return body
