"""The answer of targets.nix, put into words: targets with their names, and what failed.

Nothing here does I/O.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.adapters.nix_eval.patterns import BUILT_OF, Request, shown
from ci.adapters.telling import cut
from ci.errors import CommitFault

NAMES_SHOWN = 8
NEAR_SHOWN = 3
# Stricter than difflib itself: `packages.*` must not be told to mean `packages.x86_64…`.
NEAR = 0.75
APPS = "apps"
HOME_MODULES = ("homeModules", "homeManagerModules")
LEGACY = "legacyPackages"


@dataclass(frozen=True)
class Evaluated:
    """One target: its derivation with the store paths of its outputs, or one clear line.

    `system` is what it is built on (`x86_64-linux`), None when that is not known;
    `error` is the commit's fault.
    """

    name: str
    derivation: str | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    system: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Naming:
    """How targets are called on a host of this system, and where their paths lie."""

    system: str
    store_dir: Path

    def name(self, path: Sequence[str]) -> str:
        """The shown name of an attribute path, with or without what is built of it."""
        below = BUILT_OF.get(path[0], ())
        if len(path) == 2 + len(below) and tuple(path[2:]) == below:
            path = path[:2]
        return shown(path, self.system)

    def evaluated(self, target: Mapping[str, Any]) -> Evaluated:
        """One target of the answer; what is not a derivation has an error."""
        name = self.name(target["path"])
        if "missing" in target:
            return Evaluated(name, error=_missing(target["missing"], target["has"]))
        if "derivation" not in target:
            return Evaluated(name, error=_no_derivation(target))
        facts = target["derivation"]
        if not self._is_derivation(facts["drvPath"]):
            return Evaluated(name, error="its drvPath is not a derivation of the store")
        inside = f"{self.store_dir}/"
        outputs = facts["outputs"].items()
        return Evaluated(
            name,
            derivation=facts["drvPath"],
            outputs={key: path for key, path in outputs if path.startswith(inside)},
            system=self._built_on(facts["system"]),
        )

    def _is_derivation(self, path: object) -> bool:
        below = (
            rf"{re.escape(str(self.store_dir))}/[0-9a-z]{{32}}-[0-9A-Za-z+._?=-]+\.drv"
        )
        return isinstance(path, str) and re.fullmatch(below, path) is not None

    def _built_on(self, system: object) -> str | None:
        """`builtin` (Nix's own fetchers) is built wherever Nix runs."""
        if system == "builtin":
            return self.system
        return system if isinstance(system, str) else None

    def nothing(
        self, requests: Iterable[Request], answer: Mapping[str, Any]
    ) -> CommitFault:
        """No pattern matches: says what the flake has instead."""
        wanted = [request.pattern for request in requests]
        patterns = ", ".join(f"`{pattern}`" for pattern in wanted)
        leaves = [self.name(path) for path in _leaves(answer["inventory"])]
        if answer["targets"]:
            has = "what is there are no derivations"
        elif near := _near(wanted, leaves):
            has = f"did you mean {_choice(near)}? this flake has {_some(leaves)}"
        else:
            has = f"this flake has {_some(leaves)}" if leaves else "it has no outputs"
        return CommitFault(cut(f"no target matches {patterns}; {has}"))


def _leaves(inventory: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    """The deepest paths of an inventory."""
    for output in inventory:
        for member in output["has"]:
            yield from ([*member["path"], name] for name in member["has"])
            if not member["has"]:
                yield member["path"]
        if not output["has"]:
            yield output["path"]


def _near(patterns: Sequence[str], leaves: Sequence[str]) -> list[str]:
    """What may have been meant by patterns that match nothing, the nearest first."""
    known = [*leaves, *(f"{leaf.partition('.')[0]}.*" for leaf in leaves)]
    known = [name for name in dict.fromkeys(known) if name not in patterns]
    found = (difflib.get_close_matches(p, known, n=2, cutoff=NEAR) for p in patterns)
    return list(dict.fromkeys(name for near in found for name in near))[:NEAR_SHOWN]


def _choice(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def _missing(name: str, has: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, has, n=NEAR_SHOWN)
    if near:
        return f"attribute `{name}` missing; did you mean {_choice(near)}?"
    if has:
        return f"attribute `{name}` missing; there are {_some(has)}"
    return f"attribute `{name}` missing; there are none"


def _no_derivation(target: Mapping[str, Any]) -> str:
    if target["path"][0] == APPS:
        return "an app is not built: name the package that it runs"
    if target["path"][0] in HOME_MODULES:
        return 'a module is not built by itself: write harness = "home-manager"'
    return f"expected a derivation, found a {target['type']}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    shown_names = ", ".join(names[:NAMES_SHOWN])
    return f"{shown_names} and {more} more" if more > 0 else shown_names


def unwanted(target: Mapping[str, Any], requests: Iterable[Request]) -> bool:
    """Whether a wildcard only met it by the way: legacyPackages holds much else."""
    if target["path"][0] != LEGACY or "type" not in target:
        return False
    exact = [[name.text for name in r.path] for r in requests if r.exact]
    return target["path"] not in exact
