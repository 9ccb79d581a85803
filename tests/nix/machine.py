"""A machine on which the scripts of nix/packages run: its programs, and what they did.

`nixos-rebuild` and `home-manager` are stand-ins that write down how they were called; Nix,
git, jq, curl and build-client are real.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.client.programs import Ran
from tests.fakes import tree
from tests.fakes.nix_stores import NixStore

PACKAGES = tree.CHECKOUT / "nix/packages"
DEADLINE = 240.0
# What writeShellApplication puts before a text.
STRICT = ("-o", "errexit", "-o", "nounset", "-o", "pipefail")
NEEDED = ("bash", "jq", "curl", "git")
RECORDING = """\
#!/bin/sh
echo "{name} $*" >> {calls}
exit {code}
"""
CLIENT = """\
#!{python}
import sys
sys.path.insert(0, "{checkout}")
from ci.client.main import main
sys.exit(main())
"""
# As root there is nothing to gain; else it must not ask for a password in a test.
SUDO = '#!/bin/sh\nexec "$@"\n'


@dataclass(frozen=True)
class Machine:
    """`home` is empty at first; `bin` comes first on PATH."""

    home: Path
    bin: Path
    environ: Mapping[str, str]

    @classmethod
    def made(cls, work: Path, nix: NixStore | None = None) -> Machine:
        """A machine with build-client, and with this Nix. Skips aloud."""
        for program in NEEDED:
            if not shutil.which(program):
                pytest.skip(f"{program} is not here: the machine's scripts are not run")
        home, programs = work / "home", work / "bin"
        home.mkdir(parents=True)
        programs.mkdir()
        environ = dict(nix.env) if nix else {"PATH": os.environ["PATH"]}
        environ |= {
            "PATH": f"{programs}:{environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(work),
            "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"],
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        machine = cls(home, programs, environ)
        machine.install("sudo", SUDO)
        client = CLIENT.format(python=sys.executable, checkout=tree.CHECKOUT)
        machine.install("build-client", client)
        return machine

    def install(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def record(self, name: str, code: int = 0) -> None:
        """Install a stand-in that writes down its calls and ends with `code`."""
        calls = self.bin / "calls"
        self.install(name, RECORDING.format(name=name, calls=calls, code=code))

    def calls(self) -> list[str]:
        """What was run of the stand-ins, in order."""
        calls = self.bin / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    async def start(
        self, name: str, *arguments: str, stdin: int = asyncio.subprocess.DEVNULL
    ) -> asyncio.subprocess.Process:
        """A script as its package runs it."""
        script = str(PACKAGES / name / f"{name}.sh")
        return await asyncio.create_subprocess_exec(
            *("bash", *STRICT, script, *arguments),
            env=dict(self.environ),
            cwd=self.home,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C goes to all of it, and not to us.
            process_group=0,
        )

    async def run(self, name: str, *arguments: str) -> Ran:
        process = await self.start(name, *arguments)
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
        return Ran(process.returncode or 0, out.decode(), err.decode())


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    """Every file below, with its mode and a hash of its content."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mode & 0o777,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def found(directory: Path, name: str) -> list[Path]:
    """Every file of that name below."""
    return list(directory.rglob(name))


async def line_with(process: asyncio.subprocess.Process, text: str) -> str:
    """The next line of stdout that has `text` in it."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        async for line in process.stdout:
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"it ended and never said {text!r}")


async def end_of(process: asyncio.subprocess.Process) -> Ran:
    """What it says from now on, and its code."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())
