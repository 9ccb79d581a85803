"""For which systems this host can build, itself or through its remote builders.

Nix 2.8 refuses a whole request when one derivation in it is for a system that nobody
here builds, so such targets are told apart before the daemon is asked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ci.adapters.nix_environment import EXPERIMENTAL, NixEnvironment
from ci.adapters.process import run
from ci.errors import ConfigurationError, HostFault

ANSWER_SECONDS = 30.0
# "uri systems key jobs speed features mandatory host-key", see nix.conf(5), `builders`.
SYSTEMS_FIELD = 1


async def buildable_systems(
    nix: NixEnvironment, env: Mapping[str, str]
) -> frozenset[str]:
    """This host's system, its extra platforms, and those of its `builders`.

    `env` is laid under `nix.env` for the one process that is asked. Raises
    ConfigurationError when Nix cannot show its configuration, HostFault when it is
    stopped on the way.
    """
    argv = [nix.nix, *EXPERIMENTAL, "show-config", "--json"]
    try:
        done = await run(
            argv,
            env={"HOME": "/nonexistent", **env, **nix.env},
            timeout=ANSWER_SECONDS,
        )
    except TimeoutError as error:
        raise HostFault(str(error)) from error
    if done.code < 0:
        raise HostFault(f"{nix.nix} was killed by signal {-done.code}")
    if done.code != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise ConfigurationError([f"build.nix: `nix show-config` failed: {reason}"])
    shown = json.loads(done.stdout)
    machines = await asyncio.to_thread(_machines, shown["builders"]["value"])
    extra = shown["extra-platforms"]["value"]
    return frozenset({nix.system, *extra, *_systems_of(machines)})


def _machines(builders: str) -> list[str]:
    """The lines of the `builders` setting; `@file` stands for a file's lines."""
    lines = []
    for entry in builders.replace(";", "\n").splitlines():
        entry = entry.strip()
        if entry.startswith("@"):
            file = Path(entry[1:])
            lines += file.read_text().splitlines() if file.exists() else []
        elif entry:
            lines.append(entry)
    return [
        line for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]


def _systems_of(machines: Iterable[str]) -> Iterable[str]:
    for machine in machines:
        fields = machine.split()
        if len(fields) > SYSTEMS_FIELD and fields[SYSTEMS_FIELD] != "-":
            yield from fields[SYSTEMS_FIELD].split(",")
