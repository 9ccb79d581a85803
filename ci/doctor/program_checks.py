"""The doctor's look at the programs we stand on: do they run, are they safe to use?

Each function returns its Check and never raises for what it finds wrong.
"""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.adapters import host
from ci.adapters.host import Run
from ci.config.settings import Settings
from ci.doctor import known_holes
from ci.doctor.limits import limits_in_force
from ci.errors import HostFault
from ci.models import Check

ANSWER_SECONDS = 10.0
NIX_SETTINGS = "nix settings"


def library(name: str, version: str) -> Check:
    """A version number against the known holes."""
    hole = known_holes.known_hole(name, version)
    if hole is not None:
        fix = f"install {name} {hole.releases_text()}"
        return Check(name, False, f"{version}: {hole.hole}", fix)
    harmless = known_holes.harmless_holes(name, version)
    told = (f"{hole.hole}, but not here: {hole.harmless}" for hole in harmless)
    return Check(name, True, "; ".join((version, *told)))


async def program(
    name: str, path: str, *, run: Run, environ: Mapping[str, str]
) -> Check:
    """That a program runs, and has no known hole."""
    version = await host.program_version(path, run=run, environ=environ)
    if version is None:
        fix = f"install {name}, or put it on the PATH of the service"
        return Check(name, False, f"{path} does not run", fix)
    check = library(name, version)
    if check.ok or not await asyncio.to_thread(_mended, name, path, environ):
        return check
    return Check(name, True, f"{version}, mended by the distribution")


def _mended(name: str, path: str, environ: Mapping[str, str]) -> bool:
    """Whether the program is the distribution's own, and mended there."""
    found = shutil.which(path, path=environ.get("PATH"))
    return found == f"/usr/bin/{name}" and known_holes.mended_by_debian(name)


@dataclass(frozen=True)
class Identity:
    """Who this process is, by the names that nix.conf uses."""

    user: str
    groups: frozenset[str]
    root: bool

    def trusted(self, names: Sequence[object]) -> bool:
        """Whether `names` (users, @groups, *) holds one of ours; root always is."""
        mine = {self.user, "*", *(f"@{group}" for group in self.groups)}
        return self.root or not mine.isdisjoint(names)


def identity() -> Identity:
    """Ours."""
    user = os.geteuid()
    groups = (os.getegid(), *os.getgroups())
    return Identity(
        user=_name(pwd.getpwuid, user),
        groups=frozenset(_name(grp.getgrgid, group) for group in groups),
        root=user == 0,
    )


def _name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    """The first field of an entry of passwd or group: its name."""
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


async def nix_settings(
    nix: str, *, run: Run, environ: Mapping[str, str], who: Identity
) -> Check:
    """Builds must run in Nix' own sandbox, for a user whom Nix does not trust."""
    settings = await _show_config(nix, run=run, environ=environ)
    if settings is None:
        return Check(
            NIX_SETTINGS,
            False,
            f"{nix} does not tell its settings",
            f"look at the message of `{nix} show-config`; nix.conf may be broken",
        )
    sandbox = _value(settings, "sandbox")
    if sandbox is not True:
        return Check(
            NIX_SETTINGS,
            False,
            f"builds are not confined: sandbox = {json.dumps(sandbox)}",
            "write `sandbox = true` in nix.conf and restart nix-daemon",
        )
    trusted = _value(settings, "trusted-users")
    if who.trusted(trusted if isinstance(trusted, list) else []):
        return Check(
            NIX_SETTINGS,
            False,
            f"Nix trusts the user {who.user}: whoever pushes could become root",
            "run the service as a user of its own that trusted-users does not name",
        )
    return Check(NIX_SETTINGS, True, "builds are confined, this user is not trusted")


async def confinement(
    settings: Settings, available: Callable[[], Awaitable[tuple[bool, str]]]
) -> Check:
    """Whether bubblewrap works here, unless the configuration does without.

    It says, too, how the running server limits memory and processes.
    """
    limits = await asyncio.to_thread(limits_in_force, settings.state_dir)
    if not settings.build.sandbox:
        detail = "off by build.sandbox: evaluations may read what the service may"
        return Check("sandbox", True, f"{detail}; {limits}")
    works, why = await available()
    if works:
        return Check("sandbox", True, f"bubblewrap works; {limits}")
    return Check("sandbox", False, why, "mend that, or write build.sandbox = false")


async def _show_config(
    nix: str, *, run: Run, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    feature = ("--extra-experimental-features", "nix-command")
    # `nix config show` came with 2.20; older ones know `nix show-config` only.
    for command in (("config", "show"), ("show-config",)):
        try:
            finished = await run(
                [nix, *feature, *command, "--json"], env=environ, timeout=ANSWER_SECONDS
            )
            found = json.loads(finished.stdout) if finished.code == 0 else None
        except (HostFault, TimeoutError, ValueError):
            return None
        if isinstance(found, dict):
            return found
    return None


def _value(settings: Mapping[str, Any], name: str) -> object:
    entry = settings.get(name)
    return entry.get("value") if isinstance(entry, dict) else None
