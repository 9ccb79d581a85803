"""What can be known without asking: the checkout one stands in, the tailnet's name."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ci.config.names import repository_name

SECONDS = 5.0
# https://github.com/O/N.git, git@github.com:O/N.git, ssh://git@github.com/O/N
_GITHUB = re.compile(
    r"(?:https://(?:[^/@]*@)?|ssh://(?:[^/@]*@)?|(?:[^/@:]*@))"
    r"github\.com[:/](?P<name>[^/]+/[^/]+?)(?:\.git)?/?"
)


def repository(folder: Path, environ: Mapping[str, str]) -> str | None:
    """`owner/name` of the remote `origin` of the checkout at `folder`, if on GitHub."""
    said = _said(["git", "remote", "get-url", "origin"], environ, folder)
    found = _GITHUB.fullmatch((said or "").strip())
    if found is None:
        return None
    try:
        return repository_name(found["name"])
    except ValueError:
        return None


def tailnet_name(environ: Mapping[str, str]) -> str | None:
    """This machine's MagicDNS name; None without Tailscale, or while it is down."""
    said = _said(["tailscale", "status", "--json"], environ)
    try:
        status = json.loads(said or "")
        name = str(status["Self"]["DNSName"]).rstrip(".")
        running = status["BackendState"] == "Running"
    except (ValueError, KeyError, TypeError):
        return None
    return name if running and re.fullmatch(r"[a-z0-9.-]+", name) else None


def host_name() -> str:
    """This machine's own name, in case that others know it."""
    return socket.gethostname().lower() or "localhost"


def _said(
    command: list[str], environ: Mapping[str, str], folder: Path | None = None
) -> str | None:
    """What the program prints; None when it is not there, fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None
