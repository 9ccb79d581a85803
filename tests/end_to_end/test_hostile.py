"""Commits that spy, break, flood and stay: nothing is learned, nothing is left, all goes on.

One server for all of them, with a private repository beside the hostile one that builds
meanwhile. What a single profile shows and forbids is in tests/adapters.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.process.table import command_lines
from tests.end_to_end.hostile import House
from tests.end_to_end.server import Server, World, marked_processes
from tests.fakes import flakes
from tests.fakes.flakes import HERE, InputServer, input_server, locked
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import (
    STATIC_SHELL,
    NixMissing,
    find_nix,
    private_store,
    served,
)
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

SAMPLES = Path(__file__).parents[1] / "samples/hostile"
SLEEP = f"9{os.getpid()}"
GOOD = {"ci": "#!/bin/sh\necho a good build\n"}
FLOOD = "#!/bin/sh\nyes 'a line of a log without end' | head -c {size}\n"


def sample(name: str, **words: str) -> str:
    text = (SAMPLES / f"{name}.sh").read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def memory_of(server: Server) -> int:
    """Bytes that the server's process has in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def nobody_left(server: Server) -> None:
    """No sleeper outlives its build, and no process at all the server."""

    async def sleepers() -> list[list[bytes]]:
        running = await asyncio.to_thread(lambda: list(command_lines()))
        return [line for line in running if SLEEP.encode() in line]

    async def nobody() -> bool:
        return not await sleepers()

    async def nothing() -> bool:
        return not await marked_processes(server.world.state_dir)

    await wait_until(nobody, what=f"no {await sleepers()}")
    assert await server.stop() == 0
    await wait_until(nothing, what="no process of the server")


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_ten_gigabytes_of_log(command_world: World) -> None:
    world = command_world
    world.build = {"log_limit": "512KiB"}
    flood = world.origin.commit({"ci": FLOOD.format(size=10**10)}, executable=["ci"])
    async with world.server() as server:
        before = memory_of(server)
        await server.push(flood)
        build = await server.finished(1, 1000)
        assert build["state"] == "succeeded", build
        assert memory_of(server) - before < 64 * 2**20
        log = await server.text("/builds/1/log")
        assert len(log) < 1_300_000
        assert b"9.3 GiB are left out here" in log


async def test_hostile_commands(command_world: World) -> None:
    world = command_world
    world.build = {
        "command_memory": "256MiB",
        "processes": 64,
        "log_limit": "256KiB",
        "timeout": "10s",
    }
    house = House.furnish(world, private={"builder": "command", "command": ["./ci"]})

    def commit(text: str, **links: str) -> str:
        return world.origin.commit({"ci": text}, executable=["ci"], links=links)

    async with house.server() as (server, watch):
        first = await house.push_private(server, GOOD)
        assert (await server.finished(first))["state"] == "succeeded"
        before = memory_of(server)
        paths = " ".join(map(str, house.paths))
        port = server.private.rpartition(":")[2]
        spy = commit(
            sample("spy", PATHS=paths, PORT=port),
            link=str(world.state_dir),
            other=str(world.state_dir / "mirrors/1.git"),
        )
        stays = commit(sample("survivors", SECONDS=SLEEP, END="exit 0"))
        hangs = commit(sample("survivors", SECONDS=SLEEP, END=f"sleep {SLEEP}"))
        flood = commit(FLOOD.format(size=10**8))
        bombs = commit(sample("bombs"))
        out = world.origin.commit({"ci": None}, links={"ci": str(house.paths[0])})
        answer = await server.push([spy, stays, hangs, flood, bombs, out])
        names = ("spy", "stays", "hangs", "flood", "bombs", "out")
        numbers = dict(zip(names, answer["builds"], strict=True))
        second = await house.push_private(server, GOOD | {"again": ""})
        builds = {name: await server.finished(n) for name, n in numbers.items()}
        states = {name: build["state"] for name, build in builds.items()}
        assert states == {
            "spy": "succeeded",
            "stays": "succeeded",
            "hangs": "failed",
            "flood": "succeeded",
            "bombs": "failed",
            "out": "failed",
        }, builds
        good = await server.finished(second)
        assert good["state"] == "succeeded", "another repository's build meanwhile"
        assert "timed out after" in builds["hangs"]["summary"]
        assert "timed out after" in builds["bombs"]["summary"]

        log = (await server.text(f"/builds/{numbers['spy']}/log")).decode()
        assert "spying as" in log
        assert "seen all" in log
        for word in ("REACHED", "CONNECTED"):
            assert word not in log, log
        log = (await server.text(f"/builds/{numbers['bombs']}/log")).decode()
        filled = re.findall(r"^\S+ (\d+)$", log, re.MULTILINE)
        assert len(filled) == 3
        assert all(0 < int(size) <= 256 * 2**20 for size in filled)
        assert "memory over" in log
        log = (await server.text(f"/builds/{numbers['flood']}/log")).decode()
        assert len(log) < 400_000
        assert "log cut here at 256 KiB" in log

        grown = memory_of(server) - before
        assert grown < 64 * 2**20, f"the server has grown by {grown // 2**20} MiB"
        told = await house.told(server)
        await nobody_left(server)
    assert list((world.state_dir / "checkouts").iterdir()) == []
    assert list(house.leaks(told)) == []
    assert list(house.leaks_on_disk()) == []
    assert watch.wrong == set()
    assert {b"bwrap", b"git", b"sh"} <= watch.programs, "the watch sees something"


# Three mebibytes in lines of 64 KiB, and three in one line.
NIX_FLOOD = """
line=0123456789abcdef
for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do line=$line$line; done
for _ in 1 2 3 4 5 6; do for _ in 1 2 3 4 5 6 7 8; do echo "$line"; done; done
for _ in 1 2 3 4 5 6; do for _ in 1 2 3 4 5 6 7 8; do printf %s "$line"; done; done
echo > $out
"""
FLAKE = '{ outputs = _: { packages.HERE.a = derivation { name = "a"; system = "HERE"; '
FLAKE += 'builder = "/bin/sh"; args = [ "-c" "echo NEW; echo > $out" ]; }; }; }'


@pytest.mark.parametrize(
    ("version", "behind_daemon"),
    [
        ("modern", True),
        pytest.param("installed", False, marks=pytest.mark.faults),
        pytest.param("installed", True, marks=pytest.mark.faults),
        pytest.param("modern", False, marks=pytest.mark.faults),
    ],
)
@pytest.mark.timeout(600)
async def test_hostile_flakes(
    version: str,
    behind_daemon: bool,
    tmp_path: Path,
    origin: Origin,
    github: FakeGitHub,
) -> None:
    if not STATIC_SHELL.exists():
        pytest.skip("no bash-static: builders in Nix's own sandbox are not tested")
    try:
        nix_version = find_nix(version)
    except NixMissing as error:
        pytest.skip(f"Nix ({version}): {error}")
    with ExitStack() as stack:
        store = stack.enter_context(private_store(nix_version, sandbox=True))
        if behind_daemon:
            store = stack.enter_context(served(store))
        world = World(tmp_path, origin, github, store.env, store.program)
        world.build = {"log_limit": "512KiB"}
        house = House.furnish(world, private={"builder": "nix"})
        host = stack.enter_context(input_server())
        await _hostile_flakes(house, host)
        assert host.requests == ["/dep.tar.gz"]
        # One store is one domain: what a repository holds lies there for all to read.
        source = re.compile(r"the secret of private is in .*-source/private\.txt")
        leaks = house.leaks_on_disk(store.root)
        assert [leak for leak in leaks if not source.fullmatch(leak)] == []


async def _hostile_flakes(house: House, host: InputServer) -> None:
    world = house.world
    async with house.server() as (server, watch):
        # Fetching is what sees credentials: those of NIX_CONFIG.
        url = host.serve("dep.tar.gz")
        inputs = flakes.sample("inputs", URL=url)
        files = {**inputs, "flake.lock": flakes.locked_tarball(url)}
        first = await house.push_private(server, files)
        assert (await server.finished(first))["targets"], "its input was fetched"
        builds, before, number = {}, "", 0
        for name, made in _hostile_commits(house, server).items():
            sha = await asyncio.to_thread(world.origin.commit, made)
            answer = await server.push(sha, before=before)
            before = sha
            if name == "builds":
                good = {**_flake("second"), "flake.lock": None}
                number = await house.push_private(server, good)
            builds[name] = await server.finished(answer["builds"][0])
        assert (await server.finished(number))["state"] == "succeeded"
        _check_evaluations(builds["reads"], builds["locks"])
        log = await server.text(f"/builds/{builds['builds']['number']}/log")
        _check_builders(builds["builds"], log.decode())
        assert builds["floods"]["state"] == "succeeded"
        log = await server.text(f"/builds/{builds['floods']['number']}/log")
        assert len(log) < 600_000
        assert b"log cut here at 512 KiB" in log
        everything = (await server.get("/builds?limit=100"))["builds"]
        assert len(everything) == 6, "nothing was triggered"
        assert {build["attempt"] for build in everything} == {1}
        said = await house.told(server)
        await nobody_left(server)
    assert list(house.leaks(said)) == []
    fetching = (b"sh", b"setpriv", b"unshare", b"prlimit", b"bwrap", b"nix", b"git")
    allowed = {f"the secret of nix is in the environment of {p!r}" for p in fetching}
    assert watch.wrong - allowed == set()
    assert allowed & watch.wrong, "the watch sees what fetches"
    assert b"\x1b" not in said["GitHub"]


def _hostile_commits(
    house: House, server: Server
) -> dict[str, dict[str, str | bytes | None]]:
    """What to commit, one after the other: it reads, it locks, it builds."""
    state = house.world.state_dir
    words = {
        "SECRET": str(state),
        "HOOK": str(house.world.folder / "hook"),
        "URL": server.private,
        "OTHER": f"file://{state}/mirrors/1.git",
        "OTHER_PATH": f"{state}/mirrors/1.git",
        "OTHER_REV": house.origin.head("dev"),
    }
    told = {
        "PATHS": " ".join(map(str, house.paths)),
        "PORT": server.private.rpartition(":")[2],
        "SECONDS": SLEEP,
        "ESC": "\x1b",
    }
    place = {"type": "path", "path": str(state)}
    pinned = {**place, "narHash": f"sha256-{'A' * 43}="}
    lock = locked("dep", pinned, place)
    return {
        "reads": {**flakes.sample("hostile", **words)},
        "locks": {**flakes.sample("inputs", URL="x:y"), "flake.lock": lock},
        "builds": {**flakes.sample("hostile-builders", **told), "flake.lock": None},
        "floods": {"flake.nix": flakes.one_package(NIX_FLOOD)["flake.nix"]},
    }


def _check_evaluations(reads: Mapping[str, Any], locks: Mapping[str, Any]) -> None:
    assert reads["state"] == "failed", reads
    targets = {t["name"]: t["state"] for t in reads["targets"]}
    good = {name for name, state in targets.items() if state == "succeeded"}
    harmless = ("harmless", "variable", "nixPath")
    assert good <= {f"packages.{name}" for name in harmless}
    assert len(targets) > 15
    assert locks["state"] == "failed"
    assert "flake.lock locks the input `dep`" in locks["summary"]


def _check_builders(build: Mapping[str, Any], log: str) -> None:
    assert "spy> spied" in log
    for word in ("EXISTS", "READ", "REACHED"):
        assert f"\nspy> {word} " not in log, log
    # A fixed output has the network, by Nix's design; our API minds itself.
    pattern = r"caller> answer to (\S+) \S+ HTTP/1.1: HTTP/1.\d (\d+)"
    refused = ["POST 401", "POST 421", "POST 403", "POST 401", "POST 401", "GET 405"]
    assert [" ".join(found) for found in re.findall(pattern, log)] == refused, log
    shown = r'packages."\x1b[31mred\x1b[0m <script>alert(1)</script>"'
    assert f"build-server: failed: 2 of 4 failed: {shown}: " in log
    targets = {t["name"]: t["state"] for t in build["targets"]}
    odd = 'packages."\x1b[31mred\x1b[0m <script>alert(1)</script>"'
    assert targets.pop(odd) == "failed"
    assert targets == {
        "packages.spy": "succeeded",
        "packages.caller": "failed",
        "packages.stays": "succeeded",
    }


def _flake(new: str) -> dict[str, str]:
    return {"flake.nix": FLAKE.replace("HERE", HERE).replace("NEW", new)}
