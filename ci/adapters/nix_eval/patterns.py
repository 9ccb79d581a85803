"""Target patterns: what people write for flake attributes, and the names they are shown.

`packages.*`, `checks.web-test`, `packages.aarch64-linux.*`, `homeConfigurations.alice`,
`nixosConfigurations."srv.example"`: attribute names separated by dots, quoted where Nix
would quote them, `*` for any part of a name. The system of per-system outputs and the
attribute to build of a configuration are filled in; neither is part of the shown name.
Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ci.errors import CommitFault

PER_SYSTEM = frozenset({"apps", "checks", "devShells", "legacyPackages", "packages"})
# One derivation for each system, without a name of its own.
ONE_PER_SYSTEM = frozenset({"defaultPackage", "devShell", "formatter"})
BUILT_OF: Mapping[str, tuple[str, ...]] = {
    "darwinConfigurations": ("system",),
    "homeConfigurations": ("activationPackage",),
    "nixosConfigurations": ("config", "system", "build", "toplevel"),
}
SYSTEM = re.compile(r"[a-z0-9_]+-(cygwin|darwin|freebsd|linux|netbsd|openbsd|windows)")
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_'-]*")
SEGMENT = re.compile(r'"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<bare>[^."\s$\\{}]+)')
ANY = "*"


@dataclass(frozen=True)
class Name:
    """One attribute name of a pattern; `wild` when `*` in it stands for anything."""

    text: str
    wild: bool = False

    def argument(self) -> dict[str, str]:
        """What targets.nix wants: the name, or an extended regular expression."""
        if not self.wild:
            return {"name": self.text}
        parts = (
            re.sub(r"[][(){}.*+?^$|\\]", r"\\\g<0>", p) for p in self.text.split(ANY)
        )
        return {"match": ".*".join(parts)}


@dataclass(frozen=True)
class Request:
    """A pattern, completed: the attribute path, and what is built below it."""

    pattern: str
    path: tuple[Name, ...]
    suffix: tuple[str, ...] = field(default=())

    def argument(self) -> dict[str, Any]:
        return {
            "pattern": self.pattern,
            "exact": self.exact,
            "path": [name.argument() for name in self.path],
            "suffix": self.suffix,
        }

    @property
    def exact(self) -> bool:
        return not any(name.wild for name in self.path)


def parse(pattern: str, system: str) -> Request:
    """Complete `pattern` for the system `x86_64-linux`; raises CommitFault if it cannot
    be read."""
    path = _names(pattern)
    kind = path[0].text
    if path[0].wild:
        raise _unreadable(pattern)
    if kind in ONE_PER_SYSTEM:
        return Request(pattern, path if len(path) > 1 else (*path, Name(system)))
    if len(path) == 1 and kind in PER_SYSTEM | BUILT_OF.keys():
        path = (*path, Name(ANY, wild=True))
    if kind in PER_SYSTEM:
        path = _with_system(path, system)
    return Request(pattern, path, BUILT_OF.get(kind, ()) if len(path) == 2 else ())


def _with_system(path: tuple[Name, ...], system: str) -> tuple[Name, ...]:
    second = path[1]
    if len(path) == 2 and SYSTEM.fullmatch(second.text):
        return (*path, Name(ANY, wild=True))
    if len(path) > 2 and (second.wild or SYSTEM.fullmatch(second.text)):
        return path
    return (path[0], Name(system), *path[1:])


def _names(pattern: str) -> tuple[Name, ...]:
    names: list[Name] = []
    at = 0
    while match := SEGMENT.match(pattern, at):
        quoted, bare = match["quoted"], match["bare"]
        if quoted is not None:
            names.append(Name(re.sub(r"\\(.)", r"\1", quoted)))
        else:
            names.append(Name(bare, wild=ANY in bare))
        at = match.end()
        if at == len(pattern):
            return tuple(names)
        if pattern[at] != ".":
            break
        at += 1
    raise _unreadable(pattern)


def _unreadable(pattern: str) -> CommitFault:
    return CommitFault(
        f"the target pattern `{pattern}` cannot be read: expected attribute names "
        "separated by dots, such as `packages.*`, `checks.web-test` or "
        '`homeConfigurations."alice@laptop.local"`'
    )


def shown(path: Sequence[str], system: str) -> str:
    """The name of a target, as `nix build .#NAME` takes it; `system` is left out."""
    if len(path) > 1 and path[0] in PER_SYSTEM | ONE_PER_SYSTEM and path[1] == system:
        path = (path[0], *path[2:])
    return ".".join(map(quote, path))


def quote(name: str) -> str:
    """One attribute name as Nix prints it."""
    if PLAIN_NAME.fullmatch(name):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
