"""What may not stand in the tree: long files, other people's paths, loose ends."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import tree

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
# Written so that this file does not contain what it forbids.
REGISTRIES = re.compile(r"(pypi|pythonhosted|npmjs|deb[.]debian|crates)[.](org|io)\b")
UNFINISHED = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b")
HOMES = re.compile(
    r"(?<![\w-])/(?:home|Users)/(?!(alice|bob|build|user|me)\b)\w+|/[.]pyenv/"
)
FOREVER = 60


def _none(found: list[str]) -> None:
    assert not found, "\n".join(found)


def test_files_and_functions_stay_short() -> None:
    long = []
    for path, body in tree.python("ci"):
        length = (tree.CHECKOUT / path).read_text().count("\n")
        if length > LONGEST_FILE:
            long.append(f"{path}: {length} lines")
        for node in ast.walk(body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                height = (node.end_lineno or node.lineno) - node.lineno + 1
                if height > LONGEST_FUNCTION:
                    long.append(f"{path}: {node.name} has {height} lines")
    _none(long)


def test_no_path_of_one_machine_and_no_host_of_a_registry() -> None:
    checkout = re.compile(re.escape(str(tree.CHECKOUT)) + r"(?![\w-])")
    _none(_lines_with(checkout))
    _none(_lines_with(HOMES))
    _none(_lines_with(REGISTRIES))


def test_nothing_is_left_unfinished() -> None:
    _none(_lines_with(UNFINISHED))


def _lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in tree.texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_tests_use_real_parts_and_wait_for_conditions() -> None:
    waiting = Path("tests/fakes/waiting.py")
    bent = [
        f"{path}: {problem}"
        for path, body in tree.python("tests")
        if path != waiting
        for problem in _bends(body)
    ]
    _none(bent)


def _bends(body: ast.Module) -> Iterator[str]:
    for name in tree.imports(body):
        if name.startswith(("unittest.mock", "mock.")):
            yield f"imports {name}: use the real part, or a stand-in in tests/fakes"
    for node in ast.walk(body):
        if isinstance(node, ast.arg) and node.arg in ("monkeypatch", "mocker"):
            yield f"line {node.lineno}: {node.arg}: give the part what it needs instead"
        if isinstance(node, ast.Call) and _sleeps(node):
            yield f"line {node.lineno}: sleeps: wait for the condition (wait_until)"


def _sleeps(call: ast.Call) -> bool:
    """A sleep of a written-down length, hoping that something has happened by then.

    Giving way (0) and hanging (a minute or more) hope nothing; a computed length is
    what a stand-in was told to take, or the dice of a test that interrupts at random.
    """
    if ast.unparse(call.func) not in ("asyncio.sleep", "time.sleep", "sleep"):
        return False
    length = call.args[0] if call.args else None
    return (
        isinstance(length, ast.Constant)
        and isinstance(length.value, int | float)
        and 0 < length.value < FOREVER
    )


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ("from unittest.mock import patch", 1),
        ("def test_x(monkeypatch): pass", 1),
        ("await asyncio.sleep(0.1)", 1),
        ("time.sleep(2)", 1),
        ("await asyncio.sleep(0); await asyncio.sleep(3600); time.sleep(delay)", 0),
    ],
)
def test_the_rule_sees(source: str, problems: int) -> None:
    assert len(list(_bends(ast.parse(source)))) == problems


def _shell_files() -> Iterator[Path]:
    for path, text in tree.texts():
        first = text.partition("\n")[0]
        if path.suffix in (".sh", ".bash") or re.match(r"#!.*\b(ba)?sh\b", first):
            yield path


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck on PATH: run `make setup`")
    found = [str(path) for path in _shell_files()]
    assert {"scripts/setup", "scripts/nix-modern", ".ci/run"} <= set(found)
    done = subprocess.run(
        [shellcheck, "--format=gcc", *found],
        cwd=tree.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.stdout + done.stderr == ""


def test_scripts_can_be_run() -> None:
    scripts = [p for p in tree.files() if p.parts[0] in ("scripts", ".ci")]
    assert [p for p in scripts if not os.access(tree.CHECKOUT / p, os.X_OK)] == []


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path, _ in tree.python("tests")}
    bare = [str(folder) for folder in folders if not _is_package(folder)]
    assert sorted(bare) == []


def _is_package(folder: Path) -> bool:
    return (
        "samples" in folder.parts or (tree.CHECKOUT / folder / "__init__.py").exists()
    )
