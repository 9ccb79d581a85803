"""A nix-daemon to be killed, stopped and started again, as hosts and people do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.fakes.nix_stores import NixStore
from tests.fakes.waiting import wait_until_sync


class MortalDaemon:
    """Serves `store` while it is `start`ed; give `behind` to clients."""

    def __init__(self, store: NixStore, directory: Path) -> None:
        self.socket = directory / "socket"
        self._store = store
        self._env = {
            **store.env,
            "NIX_DAEMON_SOCKET_PATH": str(self.socket),
            "NIX_REMOTE": "local",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def behind(self) -> NixStore:
        return replace(self._store, env={**self._env, "NIX_REMOTE": "daemon"})

    def start(self) -> None:
        """Returns when it answers."""
        self.socket.unlink(missing_ok=True)
        log = (self._store.root / "nix-daemon.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self._store.daemon],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until_sync(self._answers, what="an answer of nix-daemon")

    def kill(self, *, builders: bool = True) -> None:
        """With everything it has started, as systemd does; or the builders stay."""
        self.signal(signal.SIGKILL, builders=builders)
        assert self._process is not None
        self._process.wait()
        self.socket.unlink(missing_ok=True)

    def signal(self, number: signal.Signals, *, builders: bool = False) -> None:
        """To the daemon and what it has forked for each connection."""
        assert self._process is not None
        parents = [self._process.pid, *children(self._process.pid)]
        below = [child for parent in parents[1:] for child in descendants(parent)]
        for pid in parents + (below if builders else []):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "nix-daemon ended"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.parent.name))
    return found


def descendants(parent: int) -> list[int]:
    found = children(parent)
    return found + [below for child in found for below in descendants(child)]


@contextmanager
def mortal_daemon(store: NixStore) -> Iterator[MortalDaemon]:
    """Not started yet; ended with the block."""
    # The path of a Unix socket has at most 107 bytes: not below the store.
    directory = Path(tempfile.mkdtemp(prefix="bs-nix-", dir="/tmp"))
    daemon = MortalDaemon(store, directory)
    try:
        yield daemon
    finally:
        daemon.end()
        shutil.rmtree(directory)
