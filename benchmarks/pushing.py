"""One push to a real server, from the POST to the end of its build."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.service import Service
from ci.history.paths import log_path
from ci.models import BuildState
from tests.fakes.push import ZERO, encode, headers, make_commit, make_push

# What a build prints with `date +%s%N`: nanoseconds since the epoch.
CLOCK = re.compile(rb"(?:^|> )(\d{19})$", re.MULTILINE)
CLOCK_SCRIPT = "#!/bin/sh\nexec date +%s%N\n"
LOOK_EVERY = 0.001
LONGEST = 60.0


@dataclass(frozen=True)
class Timeline:
    """Milliseconds since the push; `first` is when the build said its clock, if it did."""

    response: float
    first: float
    finished: float


class Pusher:
    """Pushes commits one after the other and looks at the history, not at the server."""

    def __init__(
        self, service: Service, session: aiohttp.ClientSession, rows: sqlite3.Connection
    ) -> None:
        self._service = service
        self._session = session
        self._rows = rows

    async def push(self, sha: str, before: str) -> Timeline:
        """Push one commit on top of `before`; wait until its build has succeeded."""
        begun = time.time_ns()
        number = await self.begin(sha, before)
        responded = time.time_ns()
        finished = await self.end(number)
        path = log_path(self._service.world.state_dir, number, 1)
        said = CLOCK.search(path.read_bytes())
        return Timeline(
            response=(responded - begun) / 1e6,
            first=(int(said[1]) - begun) / 1e6 if said else float("nan"),
            finished=(finished - begun) / 1e6,
        )

    async def begin(self, sha: str, before: str = ZERO) -> int:
        """Push one commit; return the number of its build."""
        body = encode(make_push([make_commit(sha)], before=before))
        async with self._session.post(
            f"{self._service.public}/webhook", data=body, headers=headers(body)
        ) as response:
            answer = await response.json()
        return int(answer["builds"][0])

    def target_seconds(self, number: int) -> float:
        """How long the only target of a build took."""
        row = self._rows.execute(
            "SELECT seconds FROM targets WHERE build = ?", (number,)
        ).fetchone()
        return float(row[0])

    async def end(self, number: int) -> int:
        """Wait for the build's success; return when it was seen, in nanoseconds."""
        deadline = time.monotonic() + LONGEST
        while True:
            state = self._rows.execute(
                "SELECT state, summary FROM builds WHERE number = ?", (number,)
            ).fetchone()
            if BuildState(state[0]).final:
                assert state[0] == BuildState.SUCCEEDED, state
                return time.time_ns()
            assert time.monotonic() < deadline, f"build {number} is {state}"
            await asyncio.sleep(LOOK_EVERY)


@asynccontextmanager
async def pusher(service: Service) -> AsyncIterator[Pusher]:
    rows = sqlite3.connect(_read_only(service.database), uri=True)
    try:
        async with aiohttp.ClientSession() as session:
            yield Pusher(service, session, rows)
    finally:
        rows.close()


def _read_only(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"
