"""What people and programs see, kept as text in golden/.

With UPDATE_GOLDEN set the files are written anew: read the difference before it is kept.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ci.client.text import width
from ci.history.requests import Request
from ci.models import RequestKind
from tests.client.conftest import House
from tests.client.history import date, fill
from tests.serve.desk import desk

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = """\
bs 409
bs 410
bs 411
bs 412
bs 413
bs 414
bs 415
bs
bs -1 412
build-client queue
build-client open 412
build-client address
build-client history
build-client history --branch main
bl 412 -n 3
bl 412 --failed --grep 'request 29[89]'
bl 412 --all -n 2
bl 411
bl 416
bt
bt main
bt -q dev
build-client cancel 415
build-client retry 412
bs 999
bs nonsense
bs https://elsewhere.example/builds/412
"""
ESCAPE = r"\x1b\[[0-9;]*m"
TIME = r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\dZ"
REPLIES: Mapping[str, Mapping[str, Any]] = {
    "": {"status": "triggered", "message": "build 416 is queued", "build": 416},
    "main": {"status": "already_running", "message": "it runs", "build": 415},
    "dev": {"status": "already_built", "message": "it has ended", "build": 412},
}


async def _gallery(house: House, columns: int | None, **environ: str) -> str:
    """Each command as it was typed, what it said, and its exit code."""
    await fill(house)
    commands = [shlex.split(command) for command in COMMANDS.splitlines()]
    async with desk(house.served, _reply):
        if columns is None:
            ran = await house.run_all(commands)
        else:
            ran = []
            for argv in commands:
                await date(house)
                ran.append(await house.on_terminal(*argv, columns=columns, **environ))
    shown = []
    for command, each in zip(COMMANDS.splitlines(), ran, strict=True):
        said = "".join(f"2> {line}\n" for line in each.err.splitlines())
        shown.append(f"$ {command}\n{said}{each.out}=> {each.code}\n\n")
    return "".join(shown).replace(str(house.port), "54321")


def _reply(request: Request) -> Mapping[str, Any]:
    if request.kind is not RequestKind.TRIGGER:
        return {"build": request.build}
    return REPLIES[request.body.get("ref", "")]


def _compare(shown: str, name: str) -> None:
    golden = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        golden.write_text(shown)
    assert shown.splitlines() == golden.read_text().splitlines()


@pytest.mark.parametrize(
    ("columns", "environ"), [(80, {}), (40, {}), (80, {"NO_COLOR": "1"})]
)
async def test_terminal(house: House, columns: int, environ: dict[str, str]) -> None:
    shown = await _gallery(house, columns, **environ)
    assert bool(re.search(ESCAPE, shown)) is not bool(environ)
    plain = re.sub(ESCAPE, "", shown)
    _compare(plain, f"terminal-{columns}.txt")
    too_wide = [line for line in plain.splitlines() if _is_too_wide(line, columns)]
    assert too_wide == []
    assert not re.search(r"[^ -~\n]", "".join(map(_known_removed, plain)))


def _is_too_wide(line: str, columns: int) -> bool:
    """Lines of a log are as long as they are."""
    told = not line.startswith(("$ ", "web-test> "))
    return told and width(line) > columns


def _known_removed(char: str) -> str:
    return "" if char.isprintable() and not char.isascii() else char


async def test_pipe(house: House) -> None:
    shown = await _gallery(house, None)
    _compare(re.sub(TIME, "TIME", shown), "pipe.txt")
    assert len(re.findall(TIME, shown)) > 10
