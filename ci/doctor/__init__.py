"""Checks everything that can be wrong, and says how to mend it: `build-server doctor`.

The round starts programs and asks GitHub; what a running server says of itself at
`/health` is cheaper, and elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ci.adapters import host, process, sandbox
from ci.adapters.github import App, Credential, GitHub, Token
from ci.adapters.host import Run
from ci.config import Secrets, Settings, secret_paths
from ci.config.units import is_loopback
from ci.doctor.examinations import (
    STATE_FREE,
    STORE_FREE,
    cache,
    clock,
    configuration,
    funnel,
    room,
    secrets as secrets_check,
    token,
)
from ci.doctor.exposure import exposure
from ci.doctor.program_checks import (
    confinement,
    identity,
    library,
    nix_settings,
    program,
)
from ci.models import Check
from ci.text import printable

Available = Callable[[], Awaitable[tuple[bool, str]]]
Ask = Callable[[], Awaitable[str]]

_GREEN, _RED, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


async def checks(
    settings: Settings,
    secrets: Secrets,
    environ: Mapping[str, str],
    *,
    run: Run = process.run,
    available: Available = sandbox.available,
    credential: Ask | None = None,
) -> list[Check]:
    """Everything, in the order in which one would mend it.

    `credential` asks GitHub who we are; None: with the credential in `secrets`.
    """
    if credential is None:
        credential = _asking_github(settings, secrets)
    looks = [
        *_programs(settings, environ, run=run, available=available),
        *_places(settings, environ),
        clock(_clock_elsewhere(settings.github.api_url)),
        token(credential),
    ]
    if settings.github.webhook and settings.github.public_webhook_url:
        looks.append(funnel(settings, secrets.webhook))
    if settings.cache is not None:
        looks.append(cache(settings.cache.url))
    found, exposed = await asyncio.gather(
        asyncio.gather(*looks),
        exposure(settings, run=run, environ=_environment(environ)),
    )
    at_hand = await asyncio.to_thread(_at_hand, settings, environ)
    return [*at_hand, *found, *exposed]


def _at_hand(settings: Settings, environ: Mapping[str, str]) -> list[Check]:
    """What is seen without asking anybody."""
    versions = host.library_versions().items()
    return [
        configuration(settings),
        secrets_check(secret_paths(settings, environ)),
        *(library(name, version) for name, version in versions),
    ]


def _programs(
    settings: Settings, environ: Mapping[str, str], *, run: Run, available: Available
) -> Iterator[Awaitable[Check]]:
    env = _environment(environ)
    yield program("git", "git", run=run, environ=env)
    if any(repository.builder == "nix" for repository in settings.repositories):
        yield program("nix", settings.build.nix, run=run, environ=env)
        yield nix_settings(settings.build.nix, run=run, environ=env, who=identity())
    if settings.build.sandbox:
        yield program("bwrap", "bwrap", run=run, environ=env)
    yield confinement(settings, available)


def _places(
    settings: Settings, environ: Mapping[str, str]
) -> Iterator[Awaitable[Check]]:
    yield room("disk", settings.state_dir, STATE_FREE)
    yield room("store", Path(environ.get("NIX_STORE_DIR") or "/nix/store"), STORE_FREE)


def _clock_elsewhere(api_url: str) -> str | None:
    """A URL whose server tells the time; None when it runs on this machine.

    GitHub's /rate_limit needs no credential and counts against nobody's limit
    (https://docs.github.com/en/rest/rate-limit).
    """
    host = urlsplit(api_url).hostname or ""
    return None if is_loopback(host) else f"{api_url}/rate_limit"


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a program gets to see that is asked for its version or its settings."""
    return {
        name: value
        for name, value in environ.items()
        if name in ("PATH", "HOME", "USER") or name.startswith("NIX_")
    }


def credential_of(settings: Settings, secrets: Secrets) -> Credential | None:
    """The App's when one is configured, else the token; None: there is neither."""
    if settings.github.app_id and secrets.app_key:
        return App(settings.github.app_id, secrets.app_key)
    return Token(secrets.github_token) if secrets.github_token else None


def _asking_github(settings: Settings, secrets: Secrets) -> Ask | None:
    """What asks GitHub who we are with our credential; None: there is no credential."""
    credential = credential_of(settings, secrets)
    if credential is None:
        return None

    async def ask() -> str:
        github = GitHub(settings.github.api_url, lambda: credential)
        try:
            return await github.check_credential()
        finally:
            await github.close()

    return ask


def render(checks: Sequence[Check], *, colour: bool) -> str:
    """One line for each check, what to do below what is wrong, a sum at the end."""
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        mark = (
            _painted("✓", _GREEN, colour) if check.ok else _painted("✗", _RED, colour)
        )
        lines.append(f"{mark} {check.name:<{width}}  {printable(check.detail)}")
        if not check.ok and check.fix:
            lines.append(f"  {'':<{width}}  → {printable(check.fix)}")
    wrong = sum(not check.ok for check in checks)
    lines.append("")
    lines.append(
        f"{wrong} of {len(checks)} checks found something" if wrong else "all well"
    )
    return "\n".join(lines)


def _painted(text: str, code: str, colour: bool) -> str:
    return f"{code}{text}{_PLAIN}" if colour else text
