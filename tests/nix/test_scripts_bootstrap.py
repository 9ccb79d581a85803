"""bootstrap-new-machine against a real server: what it writes, asks, and refuses."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.client.programs import Ran
from tests.end_to_end.server import World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixProgram
from tests.fakes.repository import Origin
from tests.fakes.tailscale import Tailscale
from tests.fakes.tree import CHECKOUT
from tests.nix.conftest import EvaluateHome
from tests.nix.evaluation import environment
from tests.nix.machine import DEADLINE, PACKAGES, Machine, contents, found

BOOTSTRAP = "bootstrap-new-machine"
KEY = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
CACHE = f'[cache]\nurl = "http://127.0.0.1:5000"\npublic_key = "{KEY}"\n'
# As other machines reach it: by the name in `public_url`.
SEEN = "http://build-server:5000"
WHO = ("--name", "mars", "--user", "ada", "--template", "laptop")
WRITTEN = {
    *(".gitignore", "flake.nix", "home.nix", "machine.nix"),
    *("secrets.example.nix", "secrets.nix"),
}
CLIENT = {
    "server": "http://build-server:8000",
    "cache": {"url": SEEN, "public_key": KEY},
    "repositories": [],
}
# Written by home-manager, for the machine's own.
NIX_CONF = ".config/build-server/nix.conf"
SYSTEM = f"{os.uname().machine}-linux"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine.made(tmp_path / "machine")
    environ = {**made.environ, "BOOTSTRAP_TEMPLATES": str(CHECKOUT / "nix/templates")}
    return Machine(made.home, made.bin, environ)


@pytest.fixture
def on_tailnet(machine: Machine, tmp_path: Path) -> Machine:
    """The same with Tailscale, connected."""
    tailscale = Tailscale.installed(tmp_path / "tailscale")
    path = f"{tailscale.directory}:{machine.environ['PATH']}"
    environ = {**machine.environ, **tailscale.env, "PATH": path}
    return Machine(machine.home, machine.bin, environ)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    """The private address of a real server that has a cache."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with FakeGitHub() as github:
        world = World(tmp_path, Origin(tmp_path / "origin.git"), github, environ, "nix")
        world.repository = {"builder": "command", "command": ["./ci"]}
        world.extra = CACHE
        async with world.server() as running:
            yield running.private


@pytest.fixture
async def says(aiohttp_server: Any) -> Any:
    """Start a stranger that answers /client.json with this; its address."""

    async def start(body: bytes) -> str:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=body, content_type="application/json")

        application = web.Application()
        application.router.add_get("/client.json", answer)
        started: TestServer = await aiohttp_server(application)
        return str(started.make_url("/"))

    return start


def _files(machine: Machine) -> Path:
    return machine.home / ".config/home-manager"


def _values(nix: NixProgram, directory: Path, work: Path) -> dict[str, Any]:
    """What Nix reads in the two files that are the machine's own."""
    program = Path(nix.program).with_name("nix-instantiate")
    ask = (
        f"{{ m = import {directory}/machine.nix; s = import {directory}/secrets.nix; }}"
    )
    done = subprocess.run(
        [program, "--eval", "--strict", "--json", "--expr", ask],
        env=environment(nix, work),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


async def test_a_new_machine_in_one_command(
    on_tailnet: Machine, server: str, newest_nix: NixProgram, tmp_path: Path
) -> None:
    machine, directory = on_tailnet, _files(on_tailnet)
    arguments = (*WHO, "--server", server)
    planned = await machine.run(BOOTSTRAP, *arguments, "--dry-run")
    assert planned.code == 0, planned
    assert f"would write {directory}/secrets.nix" in planned.out
    assert contents(machine.home) == {}
    done = await machine.run(BOOTSTRAP, *arguments)
    assert done.code == 0, done
    written = contents(directory)
    assert set(written) == WRITTEN
    modes = {name: mode for name, (mode, _) in written.items()}
    assert modes == dict.fromkeys(WRITTEN, 0o644) | {"secrets.nix": 0o600}
    values = _values(newest_nix, directory, tmp_path)
    home = str(machine.home)
    assert values == {
        "m": {"name": "mars", "user": "ada", "home": home, "system": SYSTEM},
        "s": {
            "buildServer": {"address": server, "cacheUrl": SEEN, "publicKey": KEY},
        },
    }
    assert "==> Tailscale is connected\n" in done.out
    assert "sudo tailscale up" not in done.out
    assert f"switch --flake path:{directory}#ada\n" in done.out
    assert f"sudo tee -a /etc/nix/nix.conf < {home}/{NIX_CONF};" in done.out
    # The second time there is nothing to do, and no harm in it.
    again = await machine.run(BOOTSTRAP, *arguments)
    assert again.code == 0, again
    assert "are as they should be; nothing was changed" in again.out
    assert contents(directory) == written


async def test_home_manager_takes_what_was_written(
    machine: Machine, says: Any, eval_home: EvaluateHome
) -> None:
    """With the profile that the template names."""
    address = (await says(json.dumps(CLIENT).encode())).rstrip("/")
    me = ("--user", "alice", "--home", "/home/alice", str(_files(machine)))
    done = await machine.run(BOOTSTRAP, *WHO, *me, "--server", address)
    assert done.code == 0, done
    said = eval_home(
        Path("nix/profiles/laptop.nix"),
        _files(machine) / "home.nix",
        ask={
            "home": "config.home.homeDirectory",
            "key": "config.programs.build-client.publicKey",
            "cache": "config.programs.build-client.cacheUrl",
            "server": "config.programs.build-client.server",
            "failed": "failed",
            "conf": 'config.xdg.configFile."build-server/nix.conf".text',
        },
    )
    # What is then to be added to the machine's nix.conf is in the home.
    conf = said.pop("conf")
    assert f"sudo tee -a /etc/nix/nix.conf < /home/alice/{NIX_CONF};" in done.out
    assert f"extra-trusted-public-keys = {KEY}\nconnect-timeout = 3\n" in conf
    assert said == {
        "home": "/home/alice",
        "key": KEY,
        "cache": SEEN,
        "server": address,
        "failed": [],
    }


async def test_what_is_there_is_never_replaced_without_asking(
    machine: Machine, says: Any
) -> None:
    directory = _files(machine)
    arguments = (*WHO, "--server", await says(json.dumps(CLIENT).encode()))
    assert (await machine.run(BOOTSTRAP, *arguments)).code == 0
    mine = "{ programs.fish.enable = true; }\n"
    (directory / "home.nix").write_text(mine)
    (directory / ".gitignore").unlink()
    before = contents(directory)
    refused = await machine.run(BOOTSTRAP, *arguments)
    assert refused.code == 4, refused
    assert "there already, and different: home.nix" in refused.err
    assert contents(directory) == before
    assert "\n==> next" not in refused.out
    kept = await _on_terminal(machine, arguments, "n")
    assert kept.code == 0, kept
    assert f"kept {directory}/home.nix" in kept.out
    assert "-{ programs.fish.enable = true; }" in kept.out
    assert (directory / "home.nix").read_text() == mine
    assert (directory / ".gitignore").exists()
    replaced = await _on_terminal(machine, arguments, "y")
    assert f"replaced {directory}/home.nix" in replaced.out
    assert (directory / "home.nix.~1~").read_text() == mine
    (directory / "home.nix").write_text("{ }\n")
    forced = await machine.run(BOOTSTRAP, *arguments, "--yes")
    assert forced.code == 0, forced
    assert (directory / "home.nix.~2~").read_text() == "{ }\n"


async def _on_terminal(
    machine: Machine, arguments: tuple[str, ...], answer: str
) -> Ran:
    """With a person at the other end of standard input."""
    master, slave = os.openpty()
    try:
        process = await machine.start(BOOTSTRAP, *arguments, stdin=slave)
        os.write(master, f"{answer}\n".encode())
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
    finally:
        os.close(slave)
        os.close(master)
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def test_secrets_that_somebody_added_to_stay(machine: Machine, says: Any) -> None:
    arguments = (*WHO, "--server", await says(json.dumps(CLIENT).encode()))
    assert (await machine.run(BOOTSTRAP, *arguments)).code == 0
    secrets = _files(machine) / "secrets.nix"
    more = secrets.read_text().removesuffix("}\n")
    more += '  syncthing.devices.desktop = "ID";\n}\n'
    secrets.write_text(more)
    done = await machine.run(BOOTSTRAP, *arguments)
    assert done.code == 0, done
    assert secrets.read_text() == more
    # Another key is another thing.
    other = CLIENT | {"cache": {"url": SEEN, "public_key": f"x{KEY}"}}
    arguments = (*WHO, "--server", await says(json.dumps(other).encode()))
    done = await machine.run(BOOTSTRAP, *arguments)
    assert done.code == 4, done
    assert "secrets.nix" in done.err


@pytest.mark.parametrize(
    "change",
    [
        {"cache": {"url": 'http://x:5000"; evil = "', "public_key": KEY}},
        {"cache": {"url": "http://x:5000\n$(touch pwned)", "public_key": KEY}},
        {"cache": {"url": "http://${builtins.exec}/", "public_key": KEY}},
        {"cache": {"url": "http://x", "public_key": f"{KEY}\n$(touch pwned)"}},
        {"cache": {"url": "http://x", "public_key": f"$(touch pwned){KEY}"}},
        {"cache": {"url": "http://x", "public_key": "x:''${y}"}},
        {"cache": {"url": "http://x", "public_key": f"{KEY}\n"}},
        {"cache": {"url": "http://x\n", "public_key": KEY}},
        {"cache": {"url": ["http://x"], "public_key": KEY}},
        {"cache": "`touch pwned`"},
        {"repositories": "$(touch pwned)"},
    ],
)
async def test_what_cannot_be_meant_is_not_written_down(
    machine: Machine, says: Any, change: Mapping[str, Any], tmp_path: Path
) -> None:
    address = await says(json.dumps({**CLIENT, **change}).encode())
    done = await machine.run(BOOTSTRAP, *WHO, "--server", address)
    assert done.code == 3, done
    assert "is not written down" in done.err
    assert contents(machine.home) == {}
    assert not found(tmp_path, "pwned")


@pytest.mark.parametrize(
    "body", [b"", b"<html>\x1b[31mhello", b"[]", b'{"cache": null', b"{} {}"]
)
async def test_a_stranger_is_told_from_a_server(
    machine: Machine, says: Any, body: bytes
) -> None:
    done = await machine.run(BOOTSTRAP, *WHO, "--server", await says(body))
    assert done.code == 3, done
    assert "says nothing that a build server says" in done.err
    assert "\x1b" not in done.out + done.err
    assert contents(machine.home) == {}


async def test_names_in_the_servers_answer_are_text(
    machine: Machine, says: Any, tmp_path: Path
) -> None:
    """Nobody needs them here: whatever they are, nothing of them is written or run."""
    names = ["$(touch pwned)", "a\nb", "'\"`touch pwned`", "${evil}"]
    hostile = CLIENT | {
        "server": "http://$(touch pwned)",
        "repositories": [{"name": name, "url": name, "branches": []} for name in names],
    }
    address = await says(json.dumps(hostile).encode())
    done = await machine.run(BOOTSTRAP, *WHO, "--server", address)
    assert done.code == 0, done
    written = "".join(path.read_text() for path in _files(machine).iterdir())
    assert "pwned" not in written + done.out + done.err
    assert not found(tmp_path, "pwned")


async def test_a_server_that_is_away(
    machine: Machine, nowhere: str, tmp_path: Path
) -> None:
    """Not on the tailnet either; without it the rest can be written all the same."""
    tailscale = Tailscale.installed(tmp_path / "tailscale", states=["NeedsLogin"])
    path = f"{tailscale.directory}:{machine.environ['PATH']}"
    machine = Machine(
        machine.home, machine.bin, {**machine.environ, **tailscale.env, "PATH": path}
    )
    done = await machine.run(BOOTSTRAP, *WHO, "--server", nowhere)
    assert done.code == 3, done
    assert "nobody is logged in: sudo tailscale up" in done.out
    assert "(this machine is not on the tailnet)" in done.out
    assert f"{nowhere} does not answer: " in done.err
    assert contents(machine.home) == {}
    key = tmp_path / "key"
    key.write_text("tskey-auth-secret")
    key.chmod(0o600)
    arguments = (*WHO, "--server", nowhere, "--offline", "--auth-key-file", str(key))
    done = await machine.run(BOOTSTRAP, *arguments)
    assert done.code == 0, done
    text = (_files(machine) / "secrets.nix").read_text()
    assert f'tailscale.authKeyFile = "{key}";' in text
    assert "publicKey" not in text
    assert "write buildServer.cacheUrl and publicKey into" in done.out
    assert "1. join the tailnet: sudo tailscale up" in done.out
    everything = "".join(path.read_text() for path in _files(machine).iterdir())
    assert "tskey-auth-secret" not in everything + done.out


async def test_a_whole_nixos(machine: Machine, newest_nix: NixProgram) -> None:
    """By sudo, for somebody."""
    machine = Machine(
        machine.home, machine.bin, {**machine.environ, "SUDO_USER": "ada"}
    )
    home = await machine.run(BOOTSTRAP, "--template", "laptop", "--offline")
    assert home.code == 2, home
    assert "this writes the home of ada; run it without sudo" in home.err
    machine.install("nixos-generate-config", "#!/bin/sh\necho '{ found = true; }'\n")
    directory = machine.home / "nixos"
    arguments = ["--name", "mars", "--template", "machine"]
    arguments += ["--server", "build-server", "--offline", str(directory)]
    done = await machine.run(BOOTSTRAP, *arguments)
    assert done.code == 0, done
    values = _values(newest_nix, directory, machine.home)
    assert values["m"] == {"name": "mars", "user": "ada", "system": SYSTEM}
    assert values["s"] == {"buildServer": {"address": "http://build-server:8000"}}
    hardware = directory / "hardware-configuration.nix"
    assert hardware.read_text() == "{ found = true; }\n"
    assert f"sudo nixos-rebuild switch --flake path:{directory}#mars" in done.out
    # What the installer made is how the machine starts, and who uses it.
    own = [hardware, directory / "configuration.nix"]
    for file in own:
        file.write_text("{ mine = true; }\n")
    for more in ((), ("--yes",)):
        again = await machine.run(BOOTSTRAP, *arguments, *more)
        assert again.code == 0, again
        assert f"{own[1]} is the machine's own and stays" in again.out
        assert {file.read_text() for file in own} == {"{ mine = true; }\n"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", '"; evil = "'], '"; evil = " is no name of a machine'),
        (["--name", "a\n$(touch pwned)"], "is no name of a machine"),
        (["--user", "$(touch pwned)"], "is no name of a user"),
        (["--home", "/home/${x}"], "is no home directory that can be written"),
        (["/tmp/a b"], "/tmp/a b is no path that Nix takes a flake from"),
        (["--template", "../laptop"], "../laptop is no template; there are laptop"),
        (["--server", "http://a@b/"], "is no address of a build server"),
        (["--server", "file:///etc/passwd"], "is no address of a build server"),
        (["--auth-key-file", "key"], "key is no absolute path"),
        (["--auth-key-file", "/nix/store/x"], "is in the store, which everybody"),
        (["--auth-key-file", "/etc/hostname"], "can be read by others: chmod 600"),
        (["--color"], "--color is no option; see --help"),
    ],
)
async def test_arguments_that_cannot_be_meant(
    machine: Machine, arguments: list[str], sentence: str
) -> None:
    done = await machine.run(BOOTSTRAP, "--offline", *arguments)
    assert (done.code, sentence in done.err) == (2, True), done
    assert contents(machine.home) == {}


@pytest.mark.parametrize(("battery", "template"), [(1, "laptop"), (0, "desktop")])
async def test_the_template_fits_the_machine(
    machine: Machine, battery: int, template: str
) -> None:
    power = machine.bin / "power"
    power.mkdir()
    if battery:
        (power / "BAT0").mkdir()
    environ = {**machine.environ, "POWER_SUPPLY": str(power)}
    machine = Machine(machine.home, machine.bin, environ)
    done = await machine.run(BOOTSTRAP, "--offline", "--server", "x", "--user", "ada")
    assert done.code == 0, done
    assert f"for ada: the template {template} (" in done.out
    flake = (CHECKOUT / "nix/templates" / template / "flake.nix").read_text()
    assert (_files(machine) / "flake.nix").read_text() == flake


async def test_every_exit_code_is_in_the_help(machine: Machine) -> None:
    done = await machine.run(BOOTSTRAP, "--help")
    assert done.code == 0
    text = (PACKAGES / BOOTSTRAP / f"{BOOTSTRAP}.sh").read_text()
    for code in (2, 3, 4):
        assert f"\n  {code}  " in done.out
        assert f"die {code} " in text
