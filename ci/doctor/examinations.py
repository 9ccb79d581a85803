"""The doctor's look at everything but programs: files, disks, clock, cache, GitHub.

Each function returns its Check and never raises for what it finds wrong.
"""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ci.adapters import harmonia, host, probe
from ci.config.secret_files import Located
from ci.config.settings import Settings
from ci.errors import CredentialRejected, GitHubBusy, GitHubError, NetworkDown
from ci.models import Check
from ci.outside import clock as clock_words, finding
from ci.outside.asking import ask_outside
from ci.outside.finding import Reach

GIB = 1024**3
STATE_FREE = 1 * GIB
STORE_FREE = 5 * GIB
INODES_FREE = 10_000
PROBE_SECONDS = 5.0


def configuration(settings: Settings) -> Check:
    """What it says; that it is good, ci.config has seen already."""
    names = [repository.name for repository in settings.repositories]
    return Check("configuration", True, f"builds {', '.join(names)}")


def secrets(files: Sequence[Located]) -> Check:
    """Nobody else on this machine may read the secret files."""
    exposed = [str(file.path) for file in files if _readable_by_all(file.path)]
    if exposed:
        return Check(
            "secrets",
            False,
            f"every user of this machine can read {', '.join(exposed)}",
            f"chmod o= {' '.join(exposed)}",
        )
    return Check("secrets", True, ", ".join(file.shown for file in files) or "none")


def _readable_by_all(path: Path) -> bool:
    return path.exists() and bool(path.stat().st_mode & stat.S_IROTH)


async def cache(url: str) -> Check:
    """Whether the binary cache answers."""
    if await harmonia.cache_running(url):
        return Check("cache", True, f"{url} answers")
    return Check(
        "cache",
        False,
        f"{url} does not answer as a binary cache",
        "start Harmonia (systemctl start harmonia), or correct cache.url",
    )


async def token(ask: Callable[[], Awaitable[str]] | None) -> Check:
    """Whether GitHub knows our credential; `ask` is None when there is none."""
    if ask is None:
        return Check(
            "token",
            False,
            "no credential for GitHub: statuses wait until there is one",
            "put a fine-grained token (contents: read, commit statuses: write) into a "
            "file and name it in github.token_file, or use a GitHub App",
        )
    try:
        return Check("token", True, await ask())
    except CredentialRejected as error:
        fix = "make a new token and put it into the file of github.token_file"
        return Check("token", False, str(error), fix)
    except GitHubBusy as error:
        return Check("token", False, str(error), "wait; statuses follow by themselves")
    except GitHubError as error:
        fix = "see whether this machine reaches github.api_url; builds go on meanwhile"
        return Check("token", False, str(error), fix)


async def funnel(settings: Settings, webhook_secrets: Sequence[bytes]) -> Check:
    """Whether a signed question to the public address is answered by our server."""
    if not webhook_secrets:
        return Check(
            finding.NAME,
            False,
            "nobody can be asked without the webhook's secret, which could not be read",
            "run the doctor as root or as the service's user, with its credentials",
        )
    found = await ask_outside(settings, webhook_secrets)
    if found.reach in (Reach.REACHABLE, Reach.UNKNOWN):
        return found.check()
    if not await asyncio.to_thread(host.is_locked, settings.state_dir):
        return Check(
            finding.NAME,
            False,
            f"the server does not run, so nobody can answer ({found.detail})",
            "start it (systemctl start build-server), then ask again",
        )
    return found.check()


async def room(name: str, path: Path, least: int) -> Check:
    """Free bytes and inodes of the file system that holds `path`."""
    disk = await asyncio.to_thread(host.disk, path)
    seen = f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free at {path}"
    if disk.free < least:
        fix = f"free {least // GIB} GiB at least; nix-collect-garbage may help"
        return Check(name, False, seen, fix)
    if disk.inodes_free is not None and disk.inodes_free < INODES_FREE:
        return Check(
            name,
            False,
            f"only {disk.inodes_free} inodes free at {path}",
            "remove small files; nix-collect-garbage may help",
        )
    return Check(name, True, seen)


async def clock(reference: str | None) -> Check:
    """This machine's clock against that of the server at the URL `reference`.

    TLS and the tokens of GitHub Apps depend on it, and virtual machines that slept are
    often late. Without a reference there is only the time to be told.
    """
    if reference is None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return Check(clock_words.NAME, True, f"{now}; nothing to compare it with")
    try:
        theirs = (await probe.ask("GET", reference, timeout=PROBE_SECONDS)).time
    except NetworkDown:
        theirs = None
    skew = None if theirs is None else theirs - time.time()
    return clock_words.compared(skew, reference)
