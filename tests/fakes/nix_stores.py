"""Real Nix with private stores: nothing of the machine's own store is read or written.

A store is a directory plus the NIX_* variables that point every Nix program at it; no
daemon, no namespaces and no privileges are needed. Checked with Nix 2.8 and 2.34.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.fakes.tree import CHECKOUT
from tests.fakes.waiting import wait_until_sync

NIX_CONF = """\
experimental-features = nix-command flakes
sandbox = false
substituters =
flake-registry =
build-users-group =
"""


class NixMissing(Exception):
    """This version of Nix cannot be had here; `str()` says why and what to do."""


@dataclass(frozen=True)
class NixProgram:
    """One installed Nix: the paths of its programs and what it calls itself."""

    version_name: str
    program: str
    daemon: str

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(
            int(part) for part in self.version_name.split(".") if part.isdigit()
        )


@dataclass(frozen=True)
class NixStore(NixProgram):
    """A private store: give `env`, whole, to every Nix program that should use it.

    `env["NIX_REMOTE"]` is empty for direct use, `daemon` when a nix-daemon serves it.
    """

    env: Mapping[str, str]
    root: Path

    def run(self, *args: str) -> str:
        """Run `nix ARGS…` against this store and return its standard output."""
        argv = [self.program, *args]
        done = subprocess.run(argv, env=dict(self.env), text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def find_nix(which: str) -> NixProgram:
    """`installed`: the one on PATH; `modern`: the one of scripts/nix-modern.

    NIX_MODERN names another prefix than .cache/nix-modern. Raises NixMissing.
    """
    if which == "installed":
        found = shutil.which("nix")
        if found is None:
            raise NixMissing("no `nix` on PATH: run `make setup`")
        return _ask_version(Path(found))
    prefix = Path(os.environ.get("NIX_MODERN", CHECKOUT / ".cache/nix-modern"))
    program = prefix.resolve() / "usr/bin/nix"
    if not program.exists():
        raise NixMissing(f"no today's Nix in {prefix}: run `make nix-modern`")
    return _ask_version(program)


def _ask_version(program: Path) -> NixProgram:
    daemon = program.with_name("nix-daemon")
    if not daemon.exists():
        raise NixMissing(f"{daemon} is missing beside {program}")
    answer = subprocess.run([program, "--version"], capture_output=True, text=True)
    if answer.returncode != 0:
        raise NixMissing(f"{program} does not run: {answer.stderr.strip()}")
    return NixProgram(answer.stdout.split()[-1], str(program), str(daemon))


# Of bash-static: without it a builder in Nix's own sandbox has no shell.
STATIC_SHELL = Path("/usr/bin/bash-static")


@contextmanager
def private_store(nix: NixProgram, *, sandbox: bool = False) -> Iterator[NixStore]:
    """A new, empty store for direct use, removed on exit.

    With Nix's `sandbox` a builder sees nothing but a static shell.
    """
    root = Path(tempfile.mkdtemp(prefix="s", dir=_base()))
    try:
        for name in ("etc", "home", "cache", "var"):
            (root / name).mkdir()
        conf = NIX_CONF
        if sandbox:
            confined = f"sandbox = true\nsandbox-paths = /bin/sh={STATIC_SHELL}"
            conf = conf.replace("sandbox = false", confined)
        (root / "etc/nix.conf").write_text(conf)
        yield NixStore(nix.version_name, nix.program, nix.daemon, _env(nix, root), root)
    finally:
        _remove(root)


@contextmanager
def served(store: NixStore) -> Iterator[NixStore]:
    """The same store through a nix-daemon of its own, stopped on exit."""
    # The path of a Unix socket has at most 107 bytes: not below `root`.
    directory = Path(tempfile.mkdtemp(prefix="bs-nix-", dir="/tmp"))
    path = directory / "socket"
    # `local`: with an empty NIX_REMOTE a daemon may take its own socket for the store.
    env = {**store.env, "NIX_DAEMON_SOCKET_PATH": str(path), "NIX_REMOTE": "local"}
    log = store.root / "nix-daemon.log"
    with log.open("wb") as output:
        daemon = subprocess.Popen(
            [store.daemon],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_sync(lambda: _answers(path, daemon, log), what=f"{store.daemon}")
        yield replace(store, env={**env, "NIX_REMOTE": "daemon"})
    finally:
        daemon.terminate()
        try:
            daemon.wait(timeout=10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        shutil.rmtree(directory)


def _answers(path: Path, daemon: subprocess.Popen[bytes], log: Path) -> bool:
    assert daemon.poll() is None, f"nix-daemon ended:\n{log.read_text()}"
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _env(nix: NixProgram, root: Path) -> dict[str, str]:
    return {
        "PATH": f"{Path(nix.program).parent}:{os.environ['PATH']}",
        "HOME": str(root / "home"),
        "LANG": "C.UTF-8",
        "XDG_CACHE_HOME": str(root / "cache"),
        "NIX_STORE_DIR": str(root / "store"),
        "NIX_STATE_DIR": str(root / "var"),
        "NIX_LOG_DIR": str(root / "log"),
        "NIX_CONF_DIR": str(root / "etc"),
        "NIX_REMOTE": "",
    }


def _base() -> Path:
    """Where stores may lie: as root, Nix refuses a world-writable directory above."""
    for home in (CHECKOUT, Path.home()):
        if os.geteuid() != 0 or not any(map(_world_writable, (home, *home.parents))):
            base = home / ".cache/test-stores"
            base.mkdir(parents=True, exist_ok=True)
            return base.resolve()
    raise NixMissing(
        f"both {CHECKOUT} and {Path.home()} lie below a world-writable directory, "
        "where Nix as root builds nothing: check out elsewhere"
    )


def _world_writable(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IWOTH)


def _remove(root: Path) -> None:
    """A builder that outlives its daemon may still write a file or two."""
    wait_until_sync(lambda: _removed(root), what=f"the end of {root}")


def _removed(root: Path) -> bool:
    try:
        for directory, _, _ in os.walk(root):
            Path(directory).chmod(0o700)  # store paths are read-only
        shutil.rmtree(root)
    except FileNotFoundError:
        return not root.exists()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        return False
    return True
