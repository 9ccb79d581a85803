"""`queue`, `open`, `address`: what they say, to whom, and what they never do."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from ci.models import BuildState
from tests.client.conftest import House
from tests.client.programs import Ran
from tests.fakes.waiting import wait_until

BROWSER = '#!/bin/sh\nprintf "%s\\n" "$@" > "$0.opened"\n'


def _program(directory: Path, name: str, text: str = BROWSER) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


async def _opened(program: Path) -> str:
    """What it was called with; once."""
    return str(await wait_until(lambda: _take(program)))


def _take(program: Path) -> str:
    opened = Path(f"{program}.opened")
    said = opened.read_text() if opened.exists() else ""
    if said:
        opened.unlink()
    return said


@pytest.fixture
def bare(house: House, tmp_path: Path) -> Path:
    """A PATH with python and what a test puts there, and no BROWSER."""
    directory = tmp_path / "programs"
    directory.mkdir()
    (directory / "sh").symlink_to(shutil.which("sh") or "/bin/sh")
    house.environ["PATH"] = str(directory)
    house.environ["BROWSER"] = ""
    return directory


async def _open(house: House, *argv: str, browser: str = "") -> Ran:
    ran = await house.run("build-client", "open", *argv, BROWSER=browser)
    assert (ran.code, ran.out) == (0, "http://build-server:8000/builds/1\n"), ran
    return ran


async def test_open_takes_the_first_program_that_is_there(
    house: House, bare: Path
) -> None:
    await house.served.add(1, BuildState.FAILED)
    page = "http://build-server:8000/builds/1\n"
    assert "no BROWSER" in (await _open(house)).err
    for name in ("open", "wslview", "xdg-open"):
        program = _program(bare, name)
        assert (await _open(house, "last")).err == ""
        assert await _opened(program) == page
    own = _program(bare, "my browser")
    said = await _open(house, "1", browser=f"/none:'{own}' --new-window %s")
    assert said.err == ""
    assert await _opened(own) == f"--new-window\n{page}"


async def test_open_of_a_program_that_fails_says_so(house: House, bare: Path) -> None:
    await house.served.add(1, BuildState.FAILED)
    house.be_patient("open")
    _program(bare, "xdg-open", "#!/bin/sh\nexit 3\n")
    assert "ended with 3" in (await _open(house)).err
    _program(bare, "xdg-open", "#!/none\n")
    assert "No such file" in (await _open(house)).err


async def test_open_opens_nothing_but_pages(house: House, bare: Path) -> None:
    """The address is what a server said."""
    await house.close()
    evil = house.served.settings.model_copy(update={"public_url": "file:///etc"})
    house.served.settings = evil
    await house.open()
    await house.served.add(1, BuildState.FAILED)
    program = _program(bare, "xdg-open")
    ran = await house.run("build-client", "open", "1")
    assert (ran.code, ran.out) == (0, "file:///etc/builds/1\n")
    assert "not opened" in ran.err
    assert _take(program) == ""


async def test_queue_says_what_runs_and_why_the_rest_waits(house: House) -> None:
    empty = await house.run("build-client", "queue")
    assert (empty.code, empty.out) == (0, "")
    assert "nothing waits" in empty.err
    runs = await house.served.add(1, BuildState.RUNNING, title="first")
    waits = await house.served.add(2, title="second")
    await house.served.add(3, BuildState.FAILED)
    await house.served.database.write(_doing, runs)
    ran = await house.run("build-client", "queue")
    first, second = (line.split("\t") for line in ran.out.splitlines())
    assert (first[0], first[1], first[-1]) == (
        str(runs),
        "running",
        "building: 1 of 2 derivations",
    )
    told = json.loads((await house.run("bs", str(waits), "--json=waits")).out)
    assert second[:2] == [str(waits), "queued"]
    assert second[-1] == told["waits"]
    assert second[-1] not in ("", "-")
    shown = await house.on_terminal("build-client", "queue", NO_COLOR="1")
    assert f"    waits: {told['waits']}" in shown.out
    as_json = await house.run("build-client", "queue", "--json=number,waits")
    assert json.loads(as_json.out) == [
        {"number": runs, "waits": None},
        {"number": waits, "waits": told["waits"]},
    ]


def _doing(connection: sqlite3.Connection, build: int) -> None:
    connection.execute(
        "UPDATE builds SET summary = 'building: 1 of 2 derivations' WHERE number = ?",
        (build,),
    )


async def test_address_asks_nobody(house: House) -> None:
    ran = await house.run("build-client", "address", BUILD_SERVER_URL="http://none:9")
    assert (ran.code, ran.out, ran.err) == (0, "http://none:9\tBUILD_SERVER_URL\n", "")
    ran = await house.run("build-client", "address", "--json", "--server", "host")
    assert json.loads(ran.out) == {"server": "http://host:8000", "source": "--server"}
    path = house.directory / "build-server" / "client.toml"
    path.parent.mkdir()
    path.write_text('server = "https://b.example"\n')
    house.environ |= {"BUILD_SERVER_URL": "", "XDG_CONFIG_HOME": str(house.directory)}
    ran = await house.run("build-client", "address")
    assert ran.out == f"https://b.example\t{path}\n"
    path.write_text("server = 7\n")
    assert (await house.run("build-client", "address")).code == 2
