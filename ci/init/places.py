"""Where things go: below /etc and /var for root, below the home for anybody else."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ci.config import DEFAULT_PATH

SERVICE_USER = "build-server"


@dataclass(frozen=True)
class Places:
    """The configuration file, the folder of the secrets beside it, and the state."""

    config: Path
    state_dir: Path

    @property
    def secrets(self) -> Path:
        return self.config.parent / "secrets"

    @property
    def webhook_secret(self) -> Path:
        return self.secrets / "webhook-secret"

    @property
    def token(self) -> Path:
        return self.secrets / "github-token"

    @property
    def cache_key(self) -> Path:
        return self.secrets / "cache-key"


def places(
    config: Path | None,
    state_dir: Path | None,
    environ: Mapping[str, str],
    *,
    root: bool,
) -> Places:
    """What was asked for, else BUILD_SERVER_CONFIG, else what fits who we are.

    https://specifications.freedesktop.org/basedir-spec/latest/
    """
    home = Path(environ.get("HOME") or "~").expanduser()
    named = config or _path(environ, "BUILD_SERVER_CONFIG")
    if root:
        usual, state = DEFAULT_PATH, Path("/var/lib/build-server")
    else:
        folder = _path(environ, "XDG_CONFIG_HOME") or home / ".config"
        usual = folder / "build-server" / "config.toml"
        state = _path(environ, "XDG_STATE_HOME") or home / ".local" / "state"
        state /= "build-server"
    return Places((named or usual).absolute(), (state_dir or state).absolute())


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name, "")
    return Path(value) if value.startswith("/") else None


def service_owner() -> tuple[int, int] | None:
    """Who must read the secrets when root makes them: the service's user, if any."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid
