"""The servers that accept pushes: ours, Debian's `webhook`, and aiohttp alone."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.deliveries import Deliveries
from benchmarks.service import service, world
from tests.fakes.push import SECRET
from tests.fakes.waiting import wait_until


@dataclass(frozen=True)
class Accepting:
    """A server that takes deliveries; `kept` kills it and counts what it has kept.

    `started` is the monotonic clock when it was spawned.
    """

    pid: int
    port: int
    started: float
    kept: Callable[[], int] | None = None


Contender = Callable[[Deliveries], AbstractAsyncContextManager[Accepting]]


@asynccontextmanager
async def ours(deliveries: Deliveries) -> AsyncIterator[Accepting]:
    """The real server with an empty history; it builds nothing."""
    async with world() as place:
        place.build = {"parallel": 0}
        place.repository = {"name": deliveries.repo, "branches": [deliveries.branch]}
        async with service(place) as server:

            def kept() -> int:
                server.process.send_signal(signal.SIGKILL)
                return _rows(server.database)

            yield Accepting(server.pid, server.port, server.started, kept)


def _rows(path: Path) -> int:
    """Deliveries with a build of their own, as the file has them now."""
    connection = sqlite3.connect(path)
    try:
        row = connection.execute(
            "SELECT count(*) FROM builds b JOIN deliveries d ON d.id = b.delivery_id "
            "WHERE d.accepted = 1 AND d.after_sha = b.sha"
        ).fetchone()
    finally:
        connection.close()
    return int(row[0])


@asynccontextmanager
async def debians(deliveries: Deliveries) -> AsyncIterator[Accepting]:
    """https://github.com/adnanh/webhook: checks the signature, runs /bin/true."""
    hook = {
        "id": "webhook",
        "execute-command": "/bin/true",
        "success-http-response-code": 202,
        "trigger-rule": {
            "match": {
                "type": "payload-hmac-sha256",
                "secret": SECRET.decode(),
                "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
            }
        },
    }
    with tempfile.TemporaryDirectory(prefix="bs-bench-") as folder:
        hooks = Path(folder) / "hooks.json"
        hooks.write_text(json.dumps([hook]))
        port = free_port()
        listen = ["-ip", "127.0.0.1", "-port", str(port), "-urlprefix", ""]
        async with _running(["webhook", "-hooks", str(hooks), *listen], port) as found:
            yield found


@asynccontextmanager
async def bare(deliveries: Deliveries | None = None) -> AsyncIterator[Accepting]:
    """aiohttp that reads the body and says 202."""
    port = free_port()
    async with _running(
        [sys.executable, "-m", "benchmarks.bare", str(port)], port
    ) as found:
        yield found


def contenders() -> dict[str, Contender]:
    """Name -> how to run it; the one that everything is compared with comes first."""
    found: dict[str, Contender] = {"aiohttp bare": bare}
    if shutil.which("webhook"):
        found["webhook"] = debians
    return found | {"build-server": ours}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _running(argv: Sequence[str], port: int) -> AsyncIterator[Accepting]:
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await wait_until(lambda: _answers(port), what=f"{argv[0]} listening")
        yield Accepting(process.pid, port, started)
    finally:
        process.kill()
        await process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
