"""A lock with every input as it is today, as `nix flake update` would write it.

What an input names nobody knows before Nix has fetched it: it may be any directory that
Nix can read. So all is fetched into a store that is thrown away, and of what Nix says only
the lock is taken. It runs as the fetching of locked inputs does: in the sandbox, with the
network and Nix's credentials, and without any code of the commit but `inputs`, which are
plain values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ci.adapters.nix_environment import EXPERIMENTAL, NixEnvironment
from ci.adapters.nix_eval.expression import CONFINED, Expressions, Place
from ci.adapters.nix_eval.faults import (
    ERROR_LINE,
    NETWORK_TROUBLE,
    SILENT,
    host_fault,
    plain,
)
from ci.adapters.nix_eval.inputs import LARGEST_LOCK
from ci.adapters.nix_eval.lock import parse_lock, read_lock, table
from ci.errors import HostFault, HostLimit, NetworkDown
from ci.models import human_seconds
from ci.text import printable

JOB = "updating the flake inputs"
# Without a lock to begin with, and with no memory of what was fetched before, every input
# is looked up; Nix 2.8 and 2.34 have no other command for it in common.
COMMAND = ("flake", "metadata", "--json", "--no-write-lock-file", "--refresh")
OPTIONS = (
    *("--store", "local"),
    *("--option", "build-users-group", ""),
    *("--option", "substitute", "false"),
)
INPUT = re.compile(r"while (?:updating|fetching) the flake input '([^'\n]*)'")
# How git says it, where Nix says only that git has failed.
FATAL = re.compile(r"^\s*fatal: +(.*)$", re.MULTILINE)
LONGEST_SHOWN = 300


async def updated_lock(
    expressions: Expressions,
    url: str,
    place: Place,
    timeout: float,  # noqa: ASYNC109 - the message says what it was doing
) -> bytes:
    """The text of a flake.lock, in Nix's own form, for a commit that has none.

    `url` is as Mirror.own_url makes it. Both Nix's store and its cache are made in the
    cache of `place`, an empty directory that nobody else uses and the caller removes: a
    cache must not tell one store of what another one has (Nix 2.8 fails over that).
    Raises NetworkDown, HostLimit, HostFault; CommitFault: it would lock a directory of this
    machine.
    """
    nix = _aside(expressions.nix.for_fetching(), place.cache)
    argv = [nix.nix, *EXPERIMENTAL, *COMMAND, *CONFINED, *OPTIONS, url]
    try:
        done, excess = await expressions.confined(
            argv, nix, place, network=True, timeout=timeout, limit=2 * LARGEST_LOCK
        )
    except TimeoutError:
        limit = human_seconds(timeout)
        raise HostFault(f"{JOB} took longer than {limit}") from None
    if excess is not None:
        raise HostLimit(excess.sentence(JOB))
    if done.code != 0:
        raise _fault(plain(done.stderr))
    try:
        lock = json.loads(done.stdout)["locks"]
    except (ValueError, KeyError, TypeError):
        said = printable(done.stdout[:LONGEST_SHOWN].decode(errors="replace"))
        raise HostFault(f"{JOB}: Nix answered with no lock, but: {said}") from None
    written = f"{json.dumps(lock, indent=2, sort_keys=True)}\n".encode()
    parse_lock(written)
    return written


def changed_inputs(old: bytes | None, new: bytes) -> list[str]:
    """The inputs of the flake itself of which, or below which, anything is another one.

    What counts is what is fetched, not how a Nix writes it down. Raises CommitFault as
    read_lock does.
    """
    before, after = _pinned(old), _pinned(new)
    names = sorted({*before, *after})
    return [name for name in names if before.get(name) != after.get(name)]


def _aside(nix: NixEnvironment, scratch: Path) -> NixEnvironment:
    """The same Nix with a store of its own below `scratch`; it may read the other one."""
    places = {
        "NIX_STORE_DIR": str(scratch / "store"),
        "NIX_STATE_DIR": str(scratch / "var"),
        "NIX_LOG_DIR": str(scratch / "log"),
        "NIX_REMOTE": "local",
    }
    return replace(
        nix,
        env={**nix.env, **places},
        readable=(*nix.readable, *nix.writable),
        writable=(),
    )


def _fault(output: str) -> HostFault:
    said = [line for line in ERROR_LINE.findall(output) if line.strip()]
    line = ([*FATAL.findall(output), *said[-1:]] or [SILENT])[0]
    shown = printable(line[:LONGEST_SHOWN])
    if (fault := host_fault(output, line)) is not None:
        return fault
    names = INPUT.findall(output)
    what = (
        f"the flake input `{printable(names[-1])}`" if names else "the flake's inputs"
    )
    kind = NetworkDown if NETWORK_TROUBLE.search(output) else HostFault
    return kind(f"{what} cannot be updated: {shown}")


def _pinned(content: bytes | None) -> dict[str, frozenset[str]]:
    """What each input of the flake itself, and all below it, is locked to."""
    lock = read_lock(content)
    return {
        name: frozenset(_identity(lock.nodes[key]) for key in _below(lock.nodes, at))
        for name, at in lock.own.items()
    }


def _below(nodes: Mapping[str, Any], at: object) -> set[str]:
    """The nodes that can be reached; what follows another input is counted there."""
    found, waiting = set[str](), [at]
    while waiting:
        key = waiting.pop()
        if isinstance(key, str) and key in nodes and key not in found:
            found.add(key)
            waiting += table(nodes[key], "inputs").values()
    return found


def _identity(node: Mapping[str, Any]) -> str:
    locked = table(node, "locked")
    known = {key: locked[key] for key in ("narHash", "rev", "dir") if key in locked}
    return json.dumps(known or locked, sort_keys=True)
