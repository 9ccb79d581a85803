"""How the programs start and end: what they load, how fast, under which names."""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ci import __version__
from ci.models import BuildState
from tests.client.conftest import NAMES, House
from tests.client.programs import Programs

MODULES = """#!{python}
import atexit, json, sys

@atexit.register
def tell() -> None:
    with open({found!r}, "w") as file:
        json.dump(sorted(sys.modules), file)

before = set(sys.modules)
sys.argv[0] = "build-client"
from ci.client.main import main
sys.exit(main())
"""
# Seconds of the processor, very loose: this machine may be a slow one.
SLOWEST = 0.5
RUNS = 5


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "1"],
        ["status", "-w", "1"],
        ["logs", "1"],
        ["history"],
        ["doctor"],
        ["cancel", "1"],
        ["--server", "unix:/none", "trigger"],
        ["queue"],
        ["open", "1"],
        ["address"],
        ["completion", "bash"],
        ["__complete", "bs", ""],
    ],
)
async def test_nothing_but_the_standard_library_is_loaded(
    house: House, tmp_path: Path, argv: list[str]
) -> None:
    await house.served.add(1, BuildState.FAILED, log=b"x> y\n")
    found = tmp_path / "modules.json"
    loaded = await _loaded(house, found, argv)
    ours = [name for name in loaded if name.split(".")[0] == "ci"]
    assert [name for name in ours if not f"{name}.".startswith("ci.client.")] == ["ci"]
    foreign = {
        name.split(".")[0]
        for name in loaded
        if name.split(".")[0] not in {*sys.stdlib_module_names, "ci", "__main__"}
    }
    # What a virtual environment itself loads into every program.
    assert foreign <= {"sitecustomize", "usercustomize", "_distutils_hack"}
    assert "asyncio" not in loaded


async def _loaded(house: House, found: Path, argv: list[str]) -> list[str]:
    """Every module that such a run has loaded in the end."""
    program = house.directory / "tell"
    program.write_text(MODULES.format(python=sys.executable, found=str(found)))
    program.chmod(0o755)
    await house.run("tell", *argv)
    loaded: list[str] = json.loads(await asyncio.to_thread(found.read_text))
    return loaded


@pytest.mark.parametrize("argv", [["status", "1"], ["status", "-1", "1"]])
async def test_a_prompt_loads_what_it_needs_and_no_more(
    house: House, tmp_path: Path, argv: list[str]
) -> None:
    await house.served.add(1, BuildState.FAILED)
    loaded = await _loaded(house, tmp_path / "modules.json", argv)
    assert "ci.client.commands.status" in loaded
    later = ("live", "region", "watch", "follow", "complete", "shells", "examine")
    assert {f"ci.client.{name}" for name in later}.isdisjoint(loaded)
    assert {"subprocess", "threading", "tomllib", "shutil"}.isdisjoint(loaded)


async def test_start_is_fast(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    await house.served.add(1, BuildState.SUCCEEDED)
    await house.run("bs", "1")
    best = {}
    for name, argv in {
        "bs": ["bs", "1"],
        "python": [sys.executable, "-c", "pass"],
    }.items():
        times = []
        for _ in range(RUNS):
            before = _of_children()
            await house.run(*argv)
            times.append(_of_children() - before)
        best[name] = min(times)
    with capsys.disabled():
        print(f"\nbs: {best['bs'] * 1e3:.0f} ms, python: {best['python'] * 1e3:.0f} ms")
    assert best["bs"] - best["python"] < SLOWEST


def _of_children() -> float:
    """Seconds that ended children have worked: what others do beside them is not in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_all_names_say_their_version_and_help(programs: Programs) -> None:
    async def both(name: str) -> None:
        ran = await programs.run(name, "--version")
        assert (ran.code, ran.out) == (0, f"build-client {__version__}\n")
        ran = await programs.run(name, "--help")
        assert ran.code == 0
        assert "  6  server unreachable" in ran.out

    await asyncio.gather(*(both(name) for name in NAMES))


async def test_options_stand_before_or_after_the_verb(house: House) -> None:
    await house.served.add(1, BuildState.SUCCEEDED)
    for argv in (
        ["--timeout", "5", "-q", "status", "--json=number", "1"],
        ["status", "1", "--timeout", "5", "-q", "--json=number"],
    ):
        ran = await house.run("build-client", "--server", house.url, *argv)
        assert (ran.code, ran.out) == (0, '{"number": 1}\n'), ran


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "</dev/null"])
async def test_closed_sides(house: House, redirection: str) -> None:
    await house.served.add(1, BuildState.FAILED)
    shell = await asyncio.create_subprocess_shell(
        f"exec {house.directory}/bs 1 {redirection}",
        env=house.environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await shell.communicate()
    assert (shell.returncode, err) == (1, b"")


async def test_working_directory_that_was_removed(house: House) -> None:
    await house.served.add(1, BuildState.SUCCEEDED)
    command = 'mkdir gone && cd gone && rmdir "$PWD" && exec "$0" 2>&1'
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        command,
        str(house.directory / "bs"),
        cwd=house.directory,
        env=house.environ,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await shell.communicate()
    assert (shell.returncode, out.split(b"\t")[0]) == (0, b"1")


def test_module_can_be_run(programs: Programs) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ci.client.main", "status", "--version"],
        capture_output=True,
        text=True,
        env=programs.environ,
    )
    assert (done.returncode, done.stdout) == (0, f"build-client {__version__}\n")
