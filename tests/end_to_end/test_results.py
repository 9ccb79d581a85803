"""What a build leaves behind: rooted results and the timeline of its derivations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ci.history import timeline
from ci.history.database import Database
from ci.history.paths import database_path
from tests.end_to_end import impatient
from tests.end_to_end.server import Server, World
from tests.fakes.github import FakeGitHub
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

FLAKE = """{ outputs = { self }: {
  packages.x86_64-linux.result = derivation {
    name = "result"; system = "x86_64-linux"; builder = "/bin/sh";
    args = [ "-c" "echo NUMBER > $out" ];
  };
}; }
"""


async def collect_garbage(store: NixStore) -> None:
    code, said = await collected_garbage(store)
    assert code == 0, said


async def collected_garbage(store: NixStore) -> tuple[int | None, str]:
    """The collector's exit code and last words; Nix 2.8's gives up over a root that goes."""
    program = str(Path(store.program).with_name("nix-store"))
    process = await asyncio.create_subprocess_exec(
        program,
        "--gc",
        env=dict(store.env),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode(errors="replace")[-2000:]


async def pin(server: Server, build: int) -> int:
    status, answer = await server.post(f"/builds/{build}/pin")
    assert status == 409 or answer["pinned"] is True, answer
    return status


async def rebuilt(server: Server, build: int) -> dict[str, Any]:
    """Wait for the end of its second attempt: the first one's is seen until that begins."""

    async def begun() -> bool:
        return bool((await server.build(build))["attempt"] == 2)

    await wait_until(begun, 60, what=f"the second attempt of build {build}")
    return await server.finished(build)


async def exist(paths: Sequence[Path]) -> list[bool]:
    return await asyncio.to_thread(lambda: [path.exists() for path in paths])


async def until_only(
    store: NixStore, paths: Sequence[Path], expected: Sequence[bool]
) -> None:
    """Collect until just these are left: fresh results are held for a moment longer."""

    async def collected() -> bool:
        code, _ = await collected_garbage(store)
        return code == 0 and await exist(paths) == list(expected)

    await wait_until(collected, 120, what=f"{list(expected)}")


async def test_the_last_green_results_and_pinned_ones_survive_the_garbage_collector(
    tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    world = World(
        tmp_path,
        Origin(tmp_path / "origin.git"),
        github,
        fresh_nix.env,
        fresh_nix.program,
    )
    world.program = impatient.PROGRAM
    world.build = {"keep": 2}
    results, before = [], ""
    async with world.server() as server:
        for number in range(1, 5):
            sha = await _commit(world, number)
            (build,) = (await server.push(sha, before=before))["builds"]
            before = sha
            (target,) = (await server.finished(build))["targets"]
            results.append(Path(target["outputs"]["out"]))
            if build == 1:
                assert await pin(server, build) == 200
        await until_only(fresh_nix, results, [True, False, True, True])
        # What has gone must be built again, and is then the last result of all.
        assert await pin(server, 2) == 409
        await server.post("/builds/2/retry")
        assert (await rebuilt(server, 2))["state"] == "succeeded"
        assert await pin(server, 2) == 200
        await server.post("/builds/1/unpin")
        (build,) = (await server.push(await _commit(world, 5), before=before))["builds"]
        await server.finished(build)
        await server.stop()
    await collect_garbage(fresh_nix)
    assert await exist(results) == [False, True, False, True]

    database = await Database.open(database_path(world.state_dir))
    (derivation,) = await database.read(timeline.stays, 4, 1)
    await database.close()
    assert derivation.path.endswith("-result.drv")
    assert derivation.machine == ""
    assert derivation.stopped_at is not None
    assert derivation.stopped_at >= derivation.started_at


async def _commit(world: World, number: int) -> str:
    text = FLAKE.replace("NUMBER", str(number))
    return await asyncio.to_thread(world.origin.commit, {"flake.nix": text})


async def test_the_newest_commits_keep_their_results_in_whatever_order_they_were_built(
    tmp_path: Path, github: FakeGitHub, fresh_nix: NixStore
) -> None:
    """Heads are built first, older commits afterwards: those must not push them out."""
    origin = Origin(tmp_path / "origin.git")
    world = World(tmp_path, origin, github, fresh_nix.env, fresh_nix.program)
    world.program = impatient.PROGRAM
    world.build = {"keep": 2, "parallel": 1}
    world.repository = {"branches": ["dev", "main"]}
    shas = [await _commit(world, number) for number in range(1, 7)]
    async with world.server() as server:
        first = await server.finished((await server.push(shas[0]))["builds"][0])
        # A branch that others follow is set to a commit that was built for the first.
        await asyncio.to_thread(origin.git, "update-ref", "refs/heads/main", shas[0])
        await server.push(shas[0], branch="main")
        numbers = (await server.push(shas[1:], before=shas[0]))["builds"]
        builds = [first, *[await server.finished(number) for number in numbers]]
        await server.stop()
    begun = sorted(builds[1:], key=lambda build: str(build["started_at"]))
    assert begun[0]["sha"] == shas[5], "the head is built first"
    assert begun[-1]["sha"] == shas[1]
    results = [Path(build["targets"][0]["outputs"]["out"]) for build in builds]
    await collect_garbage(fresh_nix)
    # The head of main, what was built last of all, and the newest two of dev.
    assert await exist(results) == [True, True, False, False, True, True]
