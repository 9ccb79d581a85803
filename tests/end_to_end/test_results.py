"""What a build leaves behind: rooted results and the timeline of its derivations."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ci.history import builds
from ci.history.database import Database
from ci.history.paths import database_path
from tests.end_to_end.server import World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin

FLAKE = """{ outputs = { self }: {
  packages.x86_64-linux.result = derivation {
    name = "result"; system = "x86_64-linux"; builder = "/bin/sh";
    args = [ "-c" "echo NUMBER > $out" ];
  };
}; }
"""


async def collect_garbage(store: NixStore) -> None:
    program = str(Path(store.program).with_name("nix-store"))
    process = await asyncio.create_subprocess_exec(
        program,
        "--gc",
        env=dict(store.env),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0


async def test_the_last_green_results_survive_the_garbage_collector(
    tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    world = World(
        tmp_path,
        Origin(tmp_path / "origin.git"),
        github,
        fresh_nix.env,
        fresh_nix.program,
    )
    world.build = {"keep": 2}
    results, before = [], ""
    async with world.server() as server:
        for number in range(1, 5):
            text = FLAKE.replace("NUMBER", str(number))
            sha = await asyncio.to_thread(world.origin.commit, {"flake.nix": text})
            (build,) = (await server.push(sha, before=before))["builds"]
            before = sha
            (target,) = (await server.finished(build))["targets"]
            results.append(Path(target["outputs"]["out"]))
        await server.stop()
    await collect_garbage(fresh_nix)
    there = await asyncio.to_thread(lambda: [result.exists() for result in results])
    assert there == [False, False, True, True]

    database = await Database.open(database_path(world.state_dir))
    (derivation,) = await database.read(builds.derivations, 4)
    await database.close()
    assert derivation.path.endswith("-result.drv")
    assert derivation.machine == ""
    assert derivation.stopped_at is not None
    assert derivation.stopped_at >= derivation.started_at
