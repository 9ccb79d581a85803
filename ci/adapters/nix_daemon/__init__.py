"""A client of the Nix daemon: builds with typed results, progress, raw logs and roots.

`nix build` exits 1 for whatever went wrong, and texts can be forged by builders; the
daemon's own protocol says for each derivation how it ended. Everything about bytes is
in the modules beside this one; here is what is asked, and where.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from ci.adapters.nix_daemon import operations
from ci.adapters.nix_daemon.connection import Connection, Drain
from ci.adapters.nix_daemon.events import (
    Activities,
    Event,
    LogLine,
    Message,
    Phase,
    Progress,
    Started,
    Stopped,
    Substituting,
)
from ci.adapters.nix_daemon.greeting import NEWEST, Greeting, Version
from ci.adapters.nix_daemon.messages import DaemonRefused
from ci.adapters.nix_daemon.operations import Missing, Operation, PathInfo
from ci.adapters.nix_daemon.remote import RemoteFailures, is_fixed_output
from ci.adapters.nix_daemon.results import (
    BuildResult,
    BuildStatus,
    Verdict,
    first_error,
    verdict,
    whose,
)
from ci.adapters.nix_daemon.transport import through_child, through_socket
from ci.adapters.nix_daemon.wire import ProtocolError
from ci.adapters.telling import plain

__all__ = [
    "BuildResult",
    "BuildStatus",
    "Daemon",
    "DaemonRefused",
    "Event",
    "LogLine",
    "Message",
    "Missing",
    "PathInfo",
    "Phase",
    "Progress",
    "ProtocolError",
    "Started",
    "Stopped",
    "Substituting",
    "Verdict",
    "connect",
    "first_error",
    "plain",
    "verdict",
    "whose",
]

HEAD_OF_DERIVATION = 4096


# A daemon that is told of our leaving just after a log line, before it waits for the next
# one, misses it and lets a silent builder run on (2.34, one time in five when the line and
# the end came together). So it gets this many seconds to begin waiting first.
SETTLE = 0.1


class Location(Protocol):
    """What is needed of a NixEnvironment: `socket` is None where no daemon serves."""

    @property
    def daemon(self) -> str: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def socket(self) -> Path | None: ...


@asynccontextmanager
async def connect(
    nix: Location, *, env: Mapping[str, str], newest: Version = NEWEST
) -> AsyncIterator[Daemon]:
    """One connection; leaving the context closes it, which cancels its builds.

    Without a socket a `nix-daemon --stdio` is run; `env` (PATH, HOME and the like)
    with `nix.env` over it is its whole environment. `newest` is the highest version of
    the protocol to offer. Raises DaemonDown when no daemon answers, DaemonRefused when
    it does not let us in, ProtocolError when it is too old or no Nix daemon.
    """
    way = (
        through_socket(nix.socket)
        if nix.socket
        else through_child(nix.daemon, {**env, **nix.env})
    )
    async with way as link:
        connection = Connection(link)
        yield Daemon(connection, await connection.greet(newest))


class Daemon:
    """A greeted daemon. One request at a time: callers wait for each other."""

    def __init__(self, connection: Connection, greeting: Greeting) -> None:
        self._connection = connection
        self.version = greeting.version
        self.nix_version = greeting.nix_version
        self.trusted = greeting.trusted

    async def set_options(
        self,
        *,
        keep_going: bool,
        timeout: float,  # noqa: ASYNC109 - the daemon's limit for a build, not ours
        silent: float,
        cores: int = 0,
        jobs: int | None = None,
    ) -> None:
        """Set, for this connection, the limits of one builder in seconds (0: none).

        They are rounded up to whole seconds. Without `keep_going` the first failure
        leaves other derivations out of the results, or unbuilt for no reason given.
        `cores` per builder, 0 for all; `jobs` at once, None for one per processor.
        """
        request = operations.set_options(
            keep_going=keep_going,
            timeout=math.ceil(timeout),
            silent=math.ceil(silent),
            cores=cores,
            jobs=(os.cpu_count() or 1) if jobs is None else jobs,
        )
        await self._connection.ask(
            "setting its options", request, operations.read_nothing
        )

    async def query_missing(self, paths: Sequence[str]) -> Missing:
        """What building all outputs of these derivations would build and fetch."""
        return await self._connection.ask(
            "asking what is missing",
            operations.query_missing(paths),
            operations.read_missing,
        )

    async def build(
        self,
        derivations: Sequence[str],
        on_event: Callable[[Event], None],
        *,
        drain: Drain | None = None,
    ) -> dict[str, BuildResult]:
        """Build all outputs of these .drv paths; results are keyed by .drv path.

        Takes as long as it takes. `on_event` is called in order, in the event loop;
        with `drain`, nothing more is read until it returns, and in the end builders
        wait. To know which derivation of a closure failed, request each one that
        `query_missing` names. Raises DaemonLost, DaemonRefused, DiskFull and
        ProtocolError.
        """
        version = self.version
        failures = RemoteFailures(on_event)
        try:
            results = await self._connection.ask(
                f"building {len(derivations)} derivation{'s' * (len(derivations) != 1)}",
                operations.build(derivations),
                lambda inbox: operations.read_results(inbox, version),
                activities=Activities(failures),
                within=None,
                drain=drain,
            )
        except asyncio.CancelledError:
            await asyncio.sleep(SETTLE)
            raise
        if not failures.reports:
            return results
        return await asyncio.to_thread(failures.explain, results, _fixed_output)

    async def add_temp_root(self, path: str) -> None:
        """Hold `path` (and what it needs) from collection while connected."""
        await self._about("holding", path, Operation.ADD_TEMP_ROOT)

    async def add_indirect_root(self, link: Path) -> None:
        """Register an existing symbolic link into the store as a root, for good."""
        await self._about("rooting", str(link), Operation.ADD_INDIRECT_ROOT)

    async def valid(self, paths: Sequence[str]) -> set[str]:
        """Those of the paths that the store has."""
        found = await self._connection.ask(
            f"looking for {len(paths)} path{'s' * (len(paths) != 1)}",
            operations.query_valid(paths),
            operations.read_paths,
        )
        return set(found)

    async def query_path_info(self, path: str) -> PathInfo | None:
        """What the store knows of this path; None when it does not have it."""
        return await self._connection.ask(
            f"asking about {path}",
            operations.about_path(Operation.QUERY_PATH_INFO, path),
            lambda inbox: operations.read_path_info(inbox, path),
        )

    async def _about(self, doing: str, path: str, operation: Operation) -> bool:
        request = operations.about_path(operation, path)
        reply = operations.read_flag
        return await self._connection.ask(f"{doing} {path}", request, reply)


def _fixed_output(derivation: str) -> bool:
    """Unknown counts as fixed: then nothing is said against the commit."""
    try:
        with Path(derivation).open("rb") as file:
            return is_fixed_output(file.read(HEAD_OF_DERIVATION))
    except OSError:
        return True
