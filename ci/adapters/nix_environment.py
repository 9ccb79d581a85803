"""Which Nix this host has: programs, version, directories, and how to reach its store.

Found once at start. Everything that runs Nix takes what it needs from here, so that the
sandbox, the evaluator and the daemon connection all mean the same store. The variables
and their defaults are those of the Nix manual ("Environment variables"); the choice
between the store itself and a daemon is Nix's own (`store = auto`).
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ci.adapters.process import run
from ci.errors import ConfigurationError, HostFault

OLDEST = (2, 8)
EXPERIMENTAL = ("--extra-experimental-features", "nix-command flakes")
QUESTION = 'builtins.currentSystem + " " + builtins.nixVersion'
ANSWER_SECONDS = 30.0
PASSED_ON = (
    "NIX_CONFIG",
    "NIX_CONF_DIR",
    "NIX_DAEMON_SOCKET_PATH",
    "NIX_LOG_DIR",
    "NIX_SSHOPTS",
    "NIX_SSL_CERT_FILE",
    "NIX_STATE_DIR",
    "NIX_STORE_DIR",
    "NIX_USER_CONF_FILES",
    "SSL_CERT_FILE",
    *("all_proxy", "http_proxy", "https_proxy", "no_proxy"),
)
# Where HOME points must not matter; empty, the variable says that there are none.
NO_USER_FILES = {"NIX_USER_CONF_FILES": ""}
SECRET_SETTINGS = ("access-tokens", "extra-access-tokens", "netrc-file")


@dataclass(frozen=True)
class NixEnvironment:
    """One Nix and its store.

    `nix` and `daemon` are absolute paths of programs; `env` is what they need beside
    PATH and HOME, free of secrets; `socket` is set when the store is behind a daemon.
    `readable` and `writable` exist and are what a sandbox must show for an evaluation;
    `for_fetching()` adds what only fetching may see.
    """

    nix: str
    daemon: str
    env: Mapping[str, str]
    store_dir: Path
    state_dir: Path
    log_dir: Path
    conf_dir: Path
    socket: Path | None
    version: tuple[int, ...]
    system: str
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    fetching_env: Mapping[str, str]
    fetching_readable: tuple[Path, ...]

    def for_fetching(self) -> NixEnvironment:
        """The same Nix with the credentials that its configuration has for inputs."""
        return replace(
            self,
            env={**self.env, **self.fetching_env},
            readable=self.readable + self.fetching_readable,
        )


async def discover(nix: str, environ: Mapping[str, str]) -> NixEnvironment:
    """Find the program `nix` (a name on PATH or a path) and everything about its store.

    A store that is used without a daemon is created when absent, as Nix itself would.
    Raises ConfigurationError: no such program, too old, or a store out of reach;
    HostFault where another try may do better.
    """
    program = await asyncio.to_thread(_find, nix, environ)
    env = {name: environ[name] for name in PASSED_ON if environ.get(name)}
    system, version = await _ask(program, {**env, "PATH": environ.get("PATH", "")})
    return await asyncio.to_thread(
        _describe, program, system, version, env, environ.get("NIX_REMOTE", "")
    )


def _find(nix: str, environ: Mapping[str, str]) -> Path:
    found = shutil.which(nix, path=environ.get("PATH", os.defpath))
    if found is None:
        raise ConfigurationError(
            [f"build.nix: no program `{nix}` was found: install Nix or give its path"]
        )
    # Only the directory is told apart from its links: from 2.19 on every Nix program is
    # one file that looks at its own name.
    program = Path(found).resolve()
    if not program.with_name("nix-daemon").exists():
        raise ConfigurationError(
            [f"build.nix: `nix-daemon` is missing beside {program}"]
        )
    return program


async def _ask(program: Path, env: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    """One process tells both; the dummy store keeps it from opening the real one."""
    question = ("--store", "dummy://", "--impure", "--raw", "--expr", QUESTION)
    argv = [str(program), *EXPERIMENTAL, "eval", *question]
    try:
        done = await run(
            argv, env={**env, "HOME": "/nonexistent"}, timeout=ANSWER_SECONDS
        )
    except TimeoutError as error:
        raise HostFault(str(error)) from error
    if done.code < 0:
        raise HostFault(f"{program} was killed by signal {-done.code}")
    if done.code != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise ConfigurationError([f"build.nix: {program} does not work: {reason}"])
    system, _, version_name = done.stdout.decode().strip().partition(" ")
    version = tuple(int(part) for part in re.findall(r"\d+", version_name)[:3])
    if version < OLDEST:
        raise ConfigurationError(
            [f"build.nix: {program} is Nix {version_name}; 2.8 or newer is needed"]
        )
    return system, version


def _describe(
    program: Path,
    system: str,
    version: tuple[int, ...],
    env: Mapping[str, str],
    remote: str,
) -> NixEnvironment:
    store_dir = Path(env.get("NIX_STORE_DIR", "/nix/store"))
    state_dir = Path(env.get("NIX_STATE_DIR", "/nix/var/nix"))
    log_dir = Path(env.get("NIX_LOG_DIR", "/nix/var/log/nix"))
    conf_dir = Path(env.get("NIX_CONF_DIR", "/etc/nix"))
    socket = _socket(remote, env, state_dir)
    own = () if socket else (store_dir, state_dir, log_dir)
    for directory in own:
        _create(directory)
    configuration, secret = _configuration(conf_dir, env)
    known = [*_programs(program, store_dir), *configuration]
    readable = [path for path in known if path.exists()]
    if socket:
        readable += [store_dir, socket]
    return NixEnvironment(
        nix=str(program),
        daemon=str(program.with_name("nix-daemon")),
        env={**NO_USER_FILES, **env, **_without_secrets(env), **_remote(socket)},
        store_dir=store_dir,
        state_dir=state_dir,
        log_dir=log_dir,
        conf_dir=conf_dir,
        socket=socket,
        version=version,
        system=system,
        readable=tuple(readable),
        writable=own,
        fetching_env={k: v for k, v in env.items() if k == "NIX_CONFIG"},
        fetching_readable=tuple(path for path in secret if os.access(path, os.R_OK)),
    )


def _socket(remote: str, env: Mapping[str, str], state_dir: Path) -> Path | None:
    """The daemon's socket when it is to be used, as Nix's `store = auto` decides."""
    default = state_dir / "daemon-socket/socket"
    path = Path(env.get("NIX_DAEMON_SOCKET_PATH", default))
    if remote.startswith("unix://"):
        return Path(remote.removeprefix("unix://"))
    if remote == "daemon":
        return path
    if remote not in ("", "auto", "local"):
        raise ConfigurationError(
            [f"NIX_REMOTE is `{remote}`: only `daemon`, `local` or nothing can be used"]
        )
    writable = os.access(state_dir, os.R_OK | os.W_OK)
    if remote == "local" or writable or not state_dir.exists():
        return None
    if not path.exists():
        # It may come up after us; without it nothing could ever be built.
        raise HostFault(
            f"{state_dir} is a Nix daemon's, and its socket {path} is not there"
        )
    return path


def _remote(socket: Path | None) -> dict[str, str]:
    """Says to every Nix program what was found out here, so that none guesses anew."""
    if socket is None:
        return {"NIX_REMOTE": "local"}
    return {"NIX_REMOTE": "daemon", "NIX_DAEMON_SOCKET_PATH": str(socket)}


def _create(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            [
                f"the Nix store needs {directory}, which cannot be made "
                f"({error.strerror}), and there is no Nix daemon: install one, or run "
                "as the user who owns the store"
            ]
        ) from error


def _programs(program: Path, store_dir: Path) -> Iterator[Path]:
    """Where the programs lie, when that is not the system's own /usr."""
    system_store = Path("/nix/store")
    if system_store != store_dir:
        yield system_store
    for known in (Path("/usr"), system_store, store_dir):
        if program.is_relative_to(known):
            return
    yield program.parent.parent if program.parent.name == "bin" else program.parent


def _configuration(
    conf_dir: Path, env: Mapping[str, str]
) -> tuple[list[Path], list[Path]]:
    """Configuration files: (what every call needs, what only fetching may see).

    `!include` marks a file that may be absent; that is where people keep their
    `access-tokens`, so it is for fetching only, as are netrc and certificates.
    """
    user_files = env.get("NIX_USER_CONF_FILES", "").split(":")
    open_files: list[Path] = []
    certificates = (env.get(name) for name in ("NIX_SSL_CERT_FILE", "SSL_CERT_FILE"))
    secret = [conf_dir / "netrc", *(Path(name) for name in certificates if name)]
    waiting = [conf_dir / "nix.conf", *(Path(name) for name in user_files if name)]
    while waiting:
        file = waiting.pop()
        if file in open_files or not os.access(file, os.R_OK):
            continue
        open_files.append(file)
        for mark, name in _includes(file):
            (secret if mark else waiting).append(file.parent / name)
    return open_files, secret


def _includes(file: Path) -> list[tuple[str, str]]:
    text = file.read_text(errors="replace")
    return re.findall(r"^\s*(!?)include\s+(\S+)", text, re.MULTILINE)


def _without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """NIX_CONFIG without the settings that hold or name credentials."""
    lines = env.get("NIX_CONFIG", "").splitlines()
    kept = [
        line for line in lines if line.partition("=")[0].strip() not in SECRET_SETTINGS
    ]
    return {"NIX_CONFIG": "\n".join(kept)} if lines else {}
