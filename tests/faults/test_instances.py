"""One server per state directory, whatever becomes of the first; and fast reboots."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ci.history.states import DEATHS
from tests.end_to_end.server import Server, World
from tests.fakes.invariants import check
from tests.fakes.waiting import PATIENCE
from tests.faults.worlds import mortal_world, script, serve_once

STARTED = 5
REBOOTS = 20
SEED = int(os.environ.get("REBOOT_SEED", "20261120"))


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """All that a process says until it is ready or ends."""
    assert process.stderr is not None
    said = ""
    while line := (await process.stderr.readline()).decode():
        said += line
        if " is ready: " in line:
            break
    return said


@pytest.mark.faults
async def test_of_five_started_at_once_one_serves_and_the_others_name_it(
    tmp_path: Path,
) -> None:
    async with mortal_world(tmp_path / "world") as world:
        config = await asyncio.to_thread(world.write_configuration)
        processes = [
            await asyncio.create_subprocess_exec(
                *world.command("serve", "--config", str(config)),
                env=dict(world.environ),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                cwd=world.folder,
            )
            for _ in range(STARTED)
        ]
        try:
            async with asyncio.timeout(PATIENCE):
                said = await asyncio.gather(*map(_last_words, processes))
            ready = [
                p
                for p, text in zip(processes, said, strict=True)
                if " is ready: " in text
            ]
            assert len(ready) == 1, said
            refused = [text for text in said if " is ready: " not in text]
            for text in refused:
                assert text.startswith("build-server: this state directory is in use")
            codes = [await p.wait() for p in processes if p is not ready[0]]
            assert codes == [1] * (STARTED - 1)
            # Whoever came before the winner had written its name knows none; now all do.
            code, late = await serve_once(world)
            assert (code, f"process {ready[0].pid} " in late) == (1, True), late
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def test_a_server_that_stands_still_still_holds_its_state(tmp_path: Path) -> None:
    async with mortal_world(tmp_path / "world") as world, world.server() as server:
        server.send_signal(signal.SIGSTOP)
        code, said = await serve_once(world)
        assert (code, f"process {server.process.pid} " in said) == (1, True), said
        server.send_signal(signal.SIGCONT)
        sha = world.origin.commit(script("echo ok"), executable=["ci"])
        await server.push(sha)
        assert (await server.finished(1))["state"] == "succeeded"


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_twenty_reboots_in_a_row_lose_nothing(tmp_path: Path) -> None:
    """Each life is too short for a start, or for a push or two, or for a build."""
    print(f"REBOOT_SEED={SEED}")
    dice = random.Random(SEED)
    async with mortal_world(tmp_path / "world") as world:
        shas = await asyncio.to_thread(_commits, world)
        told: set[str] = set()
        begun = time.monotonic()
        async with world.server():
            start = time.monotonic() - begun
        for _ in range(REBOOTS):
            await _short_life(world, start * dice.uniform(0.2, 2.7), shas, told)
        # The first start was too quick for a measure, if none was long enough.
        while not told:
            start *= 2
            await _short_life(world, start, shas, told)
        async with world.server() as server:
            await check(world, server, world.github)
            page = await server.get("/builds?limit=100")
            built = {build["sha"]: build for build in page["builds"]}
        wrong = [built.get(sha) for sha in told if not _as_promised(built.get(sha))]
        assert not wrong, wrong
        assert any(built[sha]["state"] == "succeeded" for sha in told), built


def _as_promised(build: dict[str, Any] | None) -> bool:
    """It was built; or each of so many lives ended in the middle of it."""
    if build is None:
        return False
    died = f"died {DEATHS} times" in build["summary"]
    return build["state"] == "succeeded" or (build["state"] == "error" and died)


def _commits(world: World) -> list[str]:
    made = world.origin.commit(script("echo ok"), executable=["ci"])
    return [made, *world.origin.commits(80)]


async def _short_life(
    world: World, seconds: float, shas: list[str], told: set[str]
) -> None:
    """Start a server, push to it one commit after the other, kill it after `seconds`."""
    config = await asyncio.to_thread(world.write_configuration)
    process = await asyncio.create_subprocess_exec(
        *world.command("serve", "--config", str(config)),
        env=dict(world.environ),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=world.folder,
    )
    server = Server(world, process)
    reader = asyncio.create_task(server.listen())
    pushing = asyncio.create_task(_push_on(server, seconds, shas, told))
    await asyncio.wait([pushing], timeout=seconds)
    await server.kill()
    await reader
    pushing.cancel()
    with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
        await pushing


async def _push_on(
    server: Server, seconds: float, shas: list[str], told: set[str]
) -> None:
    with suppress(AssertionError):
        await server.ready()
        async with aiohttp.ClientSession() as server.session:
            while len(told) < len(shas):
                number = len(told)
                before = shas[number - 1] if number else ""
                await server.push(shas[number], before=before, guid=f"push-{number}")
                told.add(shas[number])
                await asyncio.sleep(seconds / 5)
