"""system-update against a real server and a real Nix, on a flake of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.end_to_end import impatient
from tests.end_to_end.server import REPO, Server, World
from tests.end_to_end.test_cache import make_key
from tests.end_to_end.test_cache_clients import served
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixProgram, NixStore, private_store
from tests.fakes.repository import Origin
from tests.fakes.tree import CHECKOUT
from tests.nix.machine import PACKAGES, Machine, contents, end_of, found, line_with

UPDATE = "system-update"
SCRIPTS = sorted(PACKAGES.glob("*/*.sh"))
# A commit of the repository that the server builds, which is also a flake.
INPUT = "{ outputs = _: { value = 1; }; }"
FLAKE = """\
{{
  inputs.terminal.url = "git+{url}?ref=dev";
  outputs = _: {outputs};
}}
"""
HOME_ONLY = "{ homeConfigurations.alice = 1; }"
# Options of Nix, home-manager and the like on that page.
OF_OTHERS = {"--extra-experimental-features", "--flake", "--delete-older-than"}
AWAY = "http://127.0.0.1:1"
# Something that is built, so that there is something to fetch.
PACKAGE = """{ outputs = _: {
  packages.x86_64-linux.thing = derivation {
    name = "thing"; system = "x86_64-linux"; builder = "/bin/sh";
    args = [ "-c" "echo thing > $out" ];
  };
}; }
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A server that runs `./ci` of each commit, outside of the sandbox."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with FakeGitHub() as github:
        made = World(tmp_path, Origin(tmp_path / "origin.git"), github, environ, "nix")
        made.repository = {"builder": "command", "command": ["./ci"]}
        made.build = {"sandbox": False}
        yield made


@pytest.fixture
def store(newest_nix: NixProgram) -> Iterator[NixStore]:
    with private_store(newest_nix) as made:
        yield made


@pytest.fixture
def machine(store: NixStore, tmp_path: Path) -> Machine:
    return _machine(store, tmp_path)


def _machine(store: NixStore, tmp_path: Path) -> Machine:
    made = Machine.made(tmp_path / "machine", store)
    made.record("home-manager")
    return made


def _commit(world: World, body: str = "true") -> str:
    files = {"ci": f"#!/bin/sh\n{body}\n", "flake.nix": INPUT}
    return world.origin.commit(files, executable=["ci"])


def _flake(machine: Machine, world: World, outputs: str = HOME_ONLY) -> Path:
    """The machine's flake where home-manager looks for it, not locked yet."""
    directory = machine.home / ".config/home-manager"
    directory.mkdir(parents=True)
    text = FLAKE.format(url=world.origin.url, outputs=outputs)
    (directory / "flake.nix").write_text(text)
    return directory


def _locked(directory: Path) -> str:
    nodes = json.loads((directory / "flake.lock").read_text())["nodes"]
    revision: str = nodes["terminal"]["locked"]["rev"]
    return revision


def _to(server: Server) -> tuple[str, str]:
    return "--server", server.private


async def test_a_machine_is_updated(
    world: World, fresh_nix: NixStore, tmp_path: Path
) -> None:
    """With each Nix: the input moves, the server builds it, what is garbage goes."""
    machine = _machine(fresh_nix, tmp_path)
    first = _commit(world)
    directory = _flake(machine, world)
    garbage = tmp_path / "garbage"
    garbage.write_text("nobody needs this")
    stored = Path(fresh_nix.run("store", "add-file", str(garbage)).strip())
    async with world.server() as server:
        done = await machine.run(UPDATE, *_to(server))
        assert done.code == 0, done
        assert _locked(directory) == first
        assert "it has no build there; asking for one" in done.out
        assert "built; whether it can be fetched is not known" in done.out
        assert (await server.build(1))["state"] == "succeeded"
        assert machine.calls() == [f"home-manager switch --flake {directory}"]
        assert not found(stored.parent, stored.name)
        before = (directory / "flake.lock").read_bytes()
        second = _commit(world, "echo more")
        done = await machine.run(UPDATE, *_to(server), "--name", "alice", "--no-gc")
        assert done.code == 0, done
        assert _locked(directory) == second
        assert machine.calls()[-1] == f"home-manager switch --flake {directory}#alice"
        assert "skipped: old generations are kept" in done.out
        kept = machine.home / ".local/state/system-update/flake.lock.before"
        assert kept.read_bytes() == before
        assert f"to go back: cp '{kept}' '{directory}/flake.lock'" in done.out
        # A third time there is nothing new, and the build is there.
        done = await machine.run(UPDATE, *_to(server), "--no-gc")
        assert done.code == 0, done
        assert "they were the newest already" in done.out
        assert "asking for one" not in done.out
        assert len((await server.get("/builds"))["builds"]) == 2


async def test_ready_to_be_fetched_is_said_where_it_is_so(
    world: World, machine: Machine, fresh_nix: NixStore
) -> None:
    """A cache that lacks the result first, and has it, signed, after a retry."""
    env, cache = dict(fresh_nix.env), world.folder / "cache"
    world.environ, world.nix = env, fresh_nix.program
    world.repository, world.build = {}, {}
    world.program = impatient.PROGRAM
    nix_store = str(Path(world.nix).with_name("nix-store"))
    public = await asyncio.to_thread(make_key, world.folder, nix_store, env)
    cache.mkdir()
    store = f"StoreDir: {env['NIX_STORE_DIR']}\n"
    (cache / "nix-cache-info").write_text(store)
    world.origin.commit({"flake.nix": PACKAGE})
    _flake(machine, world)
    with served(cache) as url:
        world.extra = f'[cache]\nurl = "{url}"\npublic_key = "{public}"'
        async with world.server() as server:
            done = await machine.run(UPDATE, *_to(server), "--no-gc")
            assert done.code == 0, done
            assert "built, but not fetchable yet: " in done.out
            assert "ready to be fetched" not in done.out
            (target,) = (await server.build(1))["targets"]
            to = f"file://{cache}?secret-key={world.folder}/secret&compression=none"
            await asyncio.to_thread(
                fresh_nix.run, "copy", "--to", to, target["outputs"]["out"]
            )
            await server.post("/builds/1/retry")
            assert (await server.finished(1))["state"] == "succeeded"
            done = await machine.run(UPDATE, *_to(server), "--no-gc")
            assert "built, and ready to be fetched" in done.out, done


async def test_a_build_that_still_runs_is_waited_for(
    world: World, machine: Machine
) -> None:
    gate = world.folder / "open"
    sha = _commit(world, f"until test -e {gate}; do sleep 0.05; done")
    directory = _flake(machine, world)
    async with world.server() as server:
        await server.push(sha)
        await server.until_state(1, "running")
        late = await machine.run(UPDATE, *_to(server), "--wait-limit", "1s")
        assert late.code == 4, late
        assert "is not built yet (the limit is 1s)" in late.err
        # There was none before.
        assert not (directory / "flake.lock").exists()
        process = await machine.start(UPDATE, *_to(server))
        await line_with(process, "waiting for")
        assert _locked(directory) == sha
        os.killpg(process.pid, signal.SIGINT)
        left = await end_of(process)
        assert left.code == 130, left
        assert not (directory / "flake.lock").exists()
        process = await machine.start(UPDATE, *_to(server), "--no-gc")
        await line_with(process, f"waiting for {REPO} {sha[:7]} (terminal)")
        assert machine.calls() == []
        gate.touch()
        done = await end_of(process)
        assert done.code == 0, done
        assert "succeeded" in done.err
        assert machine.calls() == [f"home-manager switch --flake {directory}"]


async def test_what_does_not_build_is_not_taken(
    world: World, machine: Machine, store: NixStore
) -> None:
    _commit(world)
    directory = _flake(machine, world)
    store.run("flake", "lock", str(directory))
    before = contents(directory)
    broken = _commit(world, "exit 7")
    async with world.server() as server:
        done = await machine.run(UPDATE, *_to(server))
        assert done.code == 3, done
        assert f"{REPO} {broken[:7]} (terminal) does not build" in done.err
        assert f"build-client -R {REPO} logs {broken} shows why" in done.out
    assert (contents(directory), machine.calls()) == (before, [])


async def test_a_dry_run_changes_nothing(
    world: World, machine: Machine, store: NixStore
) -> None:
    _commit(world)
    directory = _flake(machine, world)
    store.run("flake", "lock", str(directory))
    before = contents(machine.home)
    sha = _commit(world, "echo more")
    async with world.server() as server:
        done = await machine.run(UPDATE, *_to(server), "--dry-run")
        assert done.code == 0, done
        assert "• Updated input 'terminal':" in done.out
        assert f"would ask for {REPO} {sha[:7]} (terminal), and wait" in done.out
        assert f"would run: home-manager switch --flake {directory}\n" in done.out
        assert "nix-collect-garbage --delete-older-than 30d\n" in done.out
        assert done.out.endswith("==> nothing was changed\n")
        assert (await server.get("/builds"))["builds"] == []
    # Nix' own caches are outside, in XDG_CACHE_HOME.
    assert (contents(machine.home), machine.calls()) == (before, [])


async def test_without_the_server_the_rest_is_done(
    world: World, machine: Machine
) -> None:
    """In a repository of Git, too, whose flake reads a file that Git ignores."""
    sha = _commit(world)
    outputs = "builtins.seq (import ./secrets.nix) { homeConfigurations.alice = 1; }"
    directory = _flake(machine, world, outputs)
    (directory / ".gitignore").write_text("secrets.nix\n")
    (directory / "secrets.nix").write_text("{ }\n")
    Origin(directory / ".git")
    machine.record("nixos-rebuild")
    done = await machine.run(UPDATE, "--server", AWAY, "--no-gc")
    assert done.code == 0, done
    assert f"skipped: the build server {AWAY} takes no connection" in done.out
    assert "what it would have built is built here" in done.out
    assert _locked(directory) == sha
    # No machine is in this flake, though this is NixOS.
    assert machine.calls() == [f"home-manager switch --flake path:{directory}"]


async def test_a_failed_rebuild_puts_the_lock_back(
    world: World, machine: Machine
) -> None:
    _commit(world)
    directory = _flake(machine, world, "{ nixosConfigurations.laptop = 1; }")
    machine.record("nixos-rebuild")
    done = await machine.run(UPDATE, "--no-wait", "--no-gc")
    assert done.code == 0, done
    assert machine.calls() == [f"nixos-rebuild switch --flake {directory}"]
    before = contents(directory)
    sha = _commit(world, "echo more")
    machine.record("nixos-rebuild", code=1)
    done = await machine.run(UPDATE, "--no-wait")
    assert done.code == 1, done
    assert "the rebuild failed with exit code 1; flake.lock is as it was" in done.err
    assert contents(directory) == before
    kept = machine.home / ".local/state/system-update/flake.lock.failed"
    assert f"cp '{kept}' '{directory}/flake.lock' takes it again" in done.out
    assert sha in kept.read_text()
    # An input that has gone.
    shutil.rmtree(world.origin.path)
    # Nix 2.8 goes on with the clone that it has.
    shutil.rmtree(Path(machine.environ["XDG_CACHE_HOME"]) / "nix")
    done = await machine.run(UPDATE, "--no-wait")
    assert done.code == 5, done
    assert contents(directory) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--keep", "30"], "--keep 30 is no number of days; write 30d"),
        (["--wait-limit", "$(x)"], "is no time; write 90s, 20m or 2h"),
        (["--name", "a b"], "is no name of a configuration"),
        (["--nixos"], "nixos-rebuild is not here: this is no NixOS; write --home"),
        (["/nonexistent"], "/nonexistent has no flake.nix"),
        (["--what"], "--what is no option; see --help"),
        (["--server"], "--server wants a value"),
        (["--server", "ftp://x"], '"ftp://x" (BUILD_SERVER_URL) is not a server'),
    ],
)
async def test_what_cannot_be_meant_is_said(
    world: World, machine: Machine, arguments: list[str], sentence: str
) -> None:
    if arguments[-1] == "ftp://x":
        _commit(world)
    _flake(machine, world)
    done = await machine.run(UPDATE, *arguments)
    assert (done.code, sentence in done.err) == (2, True), done
    assert machine.calls() == []
    assert not (machine.home / ".config/home-manager/flake.lock").exists()


async def test_every_exit_code_is_in_the_help(machine: Machine) -> None:
    done = await machine.run(UPDATE, "--help")
    assert done.code == 0
    text = (PACKAGES / UPDATE / f"{UPDATE}.sh").read_text()
    for code in range(7):
        assert f"\n  {code}  " in done.out
        assert code == 0 or f"die {code} " in text


async def test_the_documentation_names_options_that_there_are(machine: Machine) -> None:
    page = (CHECKOUT / "docs/machines.md").read_text()
    helps = [(await machine.run(path.stem, "--help")).out for path in SCRIPTS]
    options = set(re.findall(r"--[a-z-]+", "".join(helps)))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page))
    assert named - options == OF_OTHERS
    assert options - named == set()


def _hostile(url: str) -> dict[str, Any]:
    """What /client.json might say if somebody else were in the server's place."""
    names = ["$(touch pwned)/x", "a/b\n$(touch pwned)", "a'b/`touch pwned`", REPO]
    named = [{"name": name, "url": url, "branches": ["dev"]} for name in names]
    strange = [{"name": 7, "url": url}, {"name": "a/b", "url": {"$": 1}}, "text"]
    return {"server": "$(touch pwned)", "cache": None, "repositories": named + strange}


async def test_what_the_server_says_is_never_run(
    world: World, machine: Machine, tmp_path: Path
) -> None:
    _commit(world)
    _flake(machine, world)
    answers: dict[str, Any] = {
        "/client.json": _hostile(world.origin.url),
        "/index.json": {"version": "$(touch pwned)"},
        "/health": {"status": "healthy", "cache_running": True, "checks": []},
    }

    async def answer(request: web.Request) -> web.Response:
        if request.path in answers:
            return web.json_response(answers[request.path])
        wrong = {"error": "there is no such build", "status": 404, "detail": {}}
        return web.json_response(wrong, status=404)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as stranger:
        url = str(stranger.make_url("/")).rstrip("/")
        done = await machine.run(UPDATE, "--server", url, "--no-gc")
    assert done.code == 0, done
    # The one that can be meant is asked for, and the stranger has no build of it.
    assert done.out.count("waiting for") == 1
    assert f"waiting for {REPO} " in done.out
    assert "skipped: the server has no build of it; it is built here" in done.out
    assert not found(tmp_path, "pwned")
    assert len(machine.calls()) == 1
