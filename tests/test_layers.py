"""The house plan: departments never meet, and imports only go down.

    words  ←  adapters, history  ←  intake build report serve  ←  app  ←  cli
    client  imports nothing of the rest

A module directly in `ci/` is a word when it imports nothing but words; otherwise it
belongs to the composition above the departments, where only its like may import it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.fakes import tree

DEPARTMENTS = frozenset({"intake", "build", "report", "serve"})
BASEMENT = frozenset({"adapters", "history"})
ROOMS = DEPARTMENTS | BASEMENT | {"client"}
Graph = Mapping[str, frozenset[str]]


def _room(module: str) -> str:
    """The folder of a module; empty for one directly in `ci/`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def _composition(graph: Graph) -> frozenset[str]:
    """The modules directly in `ci/` that stand on more than words."""
    above: set[str] = set()
    while True:
        found = {
            module
            for module, imported in graph.items()
            if not _room(module)
            and any(_room(name) or name in above for name in imported)
        }
        if found <= above:
            return frozenset(above)
        above |= found


def _violations(graph: Graph) -> Iterator[str]:
    composition = _composition(graph)
    for module, imported in graph.items():
        room = _room(module)
        if not room:
            continue
        allowed = {room} if room in BASEMENT | {"client"} else {room} | BASEMENT
        for name in imported:
            if name in composition:
                yield f"{module} imports {name}, which stands above it"
            elif room == "client" and _room(name) != "client" and name != "ci":
                yield f"{module} imports {name}: a client carries nothing of the rest"
            elif _room(name) and _room(name) not in allowed:
                yield f"{module} imports {name}: {room} may not know {_room(name)}"


def _graph() -> Graph:
    """Module -> modules of `ci` that it imports anywhere, type checking included."""
    parsed = {tree.module_name(path): body for path, body in tree.python("ci")}
    return {
        module: frozenset(
            known
            for name in tree.imports(body)
            if (known := _known(name, parsed)) and known != module
        )
        for module, body in parsed.items()
    }


def _known(name: str, modules: Mapping[str, object]) -> str | None:
    """The module that `import name` loads: `name` or the one that defines it."""
    assert not name.startswith("."), f"relative import {name}: write it in full"
    if name in modules:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in modules else None


def test_departments_never_meet_and_imports_only_go_down() -> None:
    violations = sorted(_violations(_graph()))
    assert not violations, "\n".join(violations)


def test_no_two_modules_import_each_other() -> None:
    graph = {module: names - {"ci"} for module, names in _graph().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("ci.intake.webhook", "ci.build.scheduler"),
        ("ci.serve.pages", "ci.report.outbox"),
        ("ci.adapters.git", "ci.history.builds"),
        ("ci.history.builds", "ci.adapters.host"),
        ("ci.adapters.git", "ci.intake.push"),
        ("ci.client.main", "ci.errors"),
        ("ci.build.scheduler", "ci.app"),
        ("ci.serve.pages", "ci.client.main"),
    ],
)
def test_the_rule_sees(module: str, imported: str) -> None:
    base: Graph = {"ci.app": frozenset({"ci.serve.pages"}), "ci.errors": frozenset()}
    graph = {**base, module: frozenset({imported})}
    assert len(list(_violations(graph))) == 1


def test_the_client_needs_only_the_standard_library() -> None:
    foreign = [
        f"{path}: {name}"
        for path, body in tree.python("ci")
        if path.parts[1] == "client"
        for name in tree.imports(body)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("ci.client")
        and name != "ci.__version__"
    ]
    assert foreign == []
