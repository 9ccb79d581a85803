"""Completion: what is offered where, in the shells themselves, and what a name may do."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ci.client.shells import SCRIPTS
from ci.client.words import VERBS
from ci.models import BuildState, Target
from tests.client.conftest import House
from tests.client.programs import Programs, Terminal

# A name server or a server that is slow holds up nobody who types; here they may be.
patient = pytest.mark.usefixtures("patience")
EVIL = "x$(touch${IFS}owned)`touch${IFS}owned`"
FAILED = Target("checks.web-test", BuildState.FAILED, 1.0, "no")
GOOD = Target("packages.default", BuildState.SUCCEEDED, 1.0)
READY, SET = "ready> ", "set> "


@pytest.fixture
def patience(programs: Programs) -> None:
    programs.be_patient("complete")


def _shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: its completion is not tried")
    return found


async def _offered(house: Programs, *typed: str) -> list[str]:
    ran = await house.run("build-client", "__complete", *typed)
    assert (ran.code, ran.err) == (0, ""), ran
    return [line.partition("\t")[0] for line in ran.out.splitlines()]


async def _fill(house: House) -> None:
    add = house.served.add
    await add(1, BuildState.FAILED, targets=(GOOD, FAILED), title="a\tb\nc")
    await add(2, BuildState.SUCCEEDED, targets=(GOOD,), branch=EVIL)


@patient
async def test_verbs_and_options_need_no_server(programs: Programs) -> None:
    programs.environ["BUILD_SERVER_URL"] = "unix:/none"
    assert await _offered(programs, "build-client", "") == list(VERBS)
    assert await _offered(programs, "build-client", "p") == ["pin"]
    assert await _offered(programs, "bs", "--ex") == ["--exit-zero"]
    assert await _offered(programs, "bs", "--color", "a") == ["auto", "always"]
    assert await _offered(programs, "bs", "--color=n") == ["--color=never"]
    assert await _offered(
        programs, "build-client", "-q", "history", "--status", "f"
    ) == ["failed"]
    assert await _offered(programs, "build-client", "completion", "") == list(SCRIPTS)
    assert await _offered(programs, "bs", "--json=last") == ["--json=last_good"]
    options = await _offered(programs, "build-logs", "-")
    assert {"--grep", "--failed", "-f", "--server"} <= set(options)


@patient
async def test_live_values(house: House) -> None:
    await _fill(house)
    builds = ["2", "1", "last", EVIL, "dev", "main"]
    assert await _offered(house, "bs", "") == builds
    assert await _offered(house, "build-client", "retry", "-w", "") == builds
    assert await _offered(house, "bl", "1", "") == [FAILED.name, GOOD.name]
    assert await _offered(house, "bl", "-n", "5", "2", "p") == [GOOD.name]
    assert await _offered(house, "bt", "") == [EVIL, "dev", "main"]
    assert await _offered(house, "build-client", "history", "--branch", "m") == ["main"]
    assert await _offered(house, "bs", "-R", "") == ["owner/name"]
    assert await _offered(house, "bs", "1", "") == []
    assert await _offered(house, "build-client", "history", "") == []
    told = (await house.run("build-client", "__complete", "bs", "1")).out
    assert told == "1\t✗ dev a\\tb\\nc\n"


@patient
async def test_the_line_says_which_server(house: House) -> None:
    await _fill(house)
    address, house.environ["BUILD_SERVER_URL"] = house.url, "unix:/none"
    assert await _offered(house, "bs", "") == []
    assert "2" in await _offered(house, "bs", "--server", address, "")
    assert "2" in await _offered(house, "bs", f"--server={address}", "")


async def test_a_server_that_says_nothing_costs_a_second(programs: Programs) -> None:
    async def silent(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        programs.environ["BUILD_SERVER_URL"] = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        assert await _offered(programs, "bs", "") == []
        # Any other command would wait ten seconds for it.
        assert 0.9 < time.monotonic() - began < 9
        server.close()


async def _interactive(house: House, *argv: str) -> Terminal:
    house.environ |= {
        "PATH": f"{house.directory}:{house.environ['PATH']}",
        "PS1": READY,
        "INPUTRC": "/dev/null",
    }
    terminal = await house.open_terminal(*argv, columns=120, TERM="xterm")
    await terminal.sees(lambda lines: bool(lines) and lines[-1] == READY.strip())
    return terminal


async def _set_up(terminal: Terminal, command: str) -> None:
    """Have the shell do this; its prompt then is another."""
    terminal.type(f"{command}; clear; PS1='{SET}'\n".encode())
    await terminal.sees(lambda lines: lines == [SET.strip()])


async def _types(terminal: Terminal, keys: str, then: str) -> None:
    terminal.type(keys.encode())
    await terminal.sees(lambda lines: bool(lines) and then in lines[-1])


async def _wipes(terminal: Terminal) -> None:
    """Take back what was typed."""
    terminal.type(b"\x15")
    await terminal.sees(lambda lines: bool(lines) and lines[-1] == SET.strip())


@patient
async def test_in_bash(house: House) -> None:
    await _fill(house)
    bash = await _interactive(house, _shell("bash"), "--norc", "--noprofile", "-i")
    await _set_up(bash, 'eval "$(build-client completion bash)"')
    for keys, shown in {
        "build-client unp\t": "build-client unpin",
        "bs --exi\t": "bs --exit-zero",
        "bs --color=al\t": "bs --color=always",
        "bl 1 che\t": "bl 1 checks.web-test",
        "build-client -R own\t": "build-client -R owner/name",
        "bt m\t": "bt main",
        "bs x\t": r"bs x\$\(touch\$\{IFS\}owned\)\`touch\$\{IFS\}owned\`",
    }.items():
        await _types(bash, keys, SET + shown)
        await _wipes(bash)
    # The name is one word to the command as well, and nothing else.
    await _types(bash, "bs -1 x\t", SET + r"bs -1 x\$")
    bash.type(b"\n")
    await bash.sees(lambda lines: any(line.startswith("#2 ") for line in lines))
    bash.type(b"exit\n")
    await bash.end()
    assert not await asyncio.to_thread((house.directory / "owned").exists)


@patient
async def test_in_zsh(house: House) -> None:
    await _fill(house)
    zsh = await _interactive(house, _shell("zsh"), "-f", "-i")
    await _set_up(
        zsh,
        "autoload -U compinit; compinit -D; source <(build-client completion zsh)",
    )
    await _types(zsh, "bs --exi\t", SET + "bs --exit-zero")
    await _wipes(zsh)
    await _types(zsh, "bl 1 che\t", SET + "bl 1 checks.web-test")
    await _wipes(zsh)
    zsh.type(b"exit\n")
    await zsh.end()


@patient
async def test_in_fish(house: House) -> None:
    await _fill(house)
    source = "build-client completion fish | source"
    asked = f"{source}; complete -C 'bs x'; complete -C 'bl 1 '"
    fish = await asyncio.create_subprocess_exec(
        _shell("fish"),
        *("--no-config", "-c", asked),
        env={**house.environ, "PATH": f"{house.directory}:{house.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await fish.communicate()
    values = [line.partition("\t")[0] for line in out.decode().splitlines()]
    assert values[1:] == [FAILED.name, GOOD.name]
    assert values[0].startswith("x")


@pytest.mark.parametrize("shell", list(SCRIPTS))
def test_the_scripts_are_what_the_shells_can_read(
    programs: Programs, shell: str, tmp_path: Path
) -> None:
    program = programs.directory / "build-client"
    said = subprocess.run(
        [program, "completion", shell], env=programs.environ, stdout=subprocess.PIPE
    )
    assert said.returncode == 0
    script = tmp_path / "script"
    script.write_bytes(said.stdout)
    check = ("shellcheck", "-s", "bash", "-o", "all", "-e", "SC2250,SC2310,SC2312")
    argv = check if shell == "bash" else (shell, "-n")
    done = subprocess.run(
        [_shell(argv[0]), *argv[1:], script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
