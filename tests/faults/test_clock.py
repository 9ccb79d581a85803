"""The clock of the day jumps by hours, as it does when a laptop wakes: nothing freezes."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ci.build.retries import DELAYS
from ci.history import outbox, queue
from ci.report.outbox import Pace
from tests.end_to_end.server import Server, World
from tests.fakes.history import CONTEXT, memory, push
from tests.fakes.waiting import wait_until
from tests.faults.worlds import gate, mortal_world, open_gate, script

# As somebody measured on a virtual machine whose host had slept, in seconds.
JUMP = 63_297
HOURS = st.integers(-40, 40)
AN_HOUR = 3600 * 1000
# Seconds. A try that comes too early is followed by one that waits for longer.
PATIENCE = 150.0
PAGES = ("/builds", "/build/status", "/builds/1", "/builds/3", "/health")


@pytest.mark.parametrize(
    "jumps",
    [
        (JUMP, 0),
        pytest.param((0, -JUMP), marks=pytest.mark.faults),
        pytest.param((-JUMP, JUMP), marks=pytest.mark.faults),
    ],
)
async def test_retries_and_statuses_go_on_after_jumps(
    tmp_path: Path, jumps: tuple[int, int]
) -> None:
    async with mortal_world(tmp_path / "world") as world:
        clock = world.folder / "clock"
        _set(clock, 0)
        world.build |= {"parallel": 2}
        async with world.server(CLOCK=str(clock)) as server:
            shas, away = await _live_through(world, server, clock, jumps)
            for number in range(1, 1 + len(shas)):
                await server.finished(number, PATIENCE)
            for sha in shas:
                await world.github.wait_for(sha, "success", PATIENCE)
            pages = [await server.get(page) for page in PAGES]
            assert [*_negative(pages)] == []
            # The newest is the one of the newest commit, whatever time it was then.
            assert [build["sha"] for build in pages[0]["builds"]] == shas[::-1]
            assert pages[1]["last"]["sha"] == shas[-1]
            # One in vain, and others only where this machine stood still meanwhile.
            most = 2 + int(away / DELAYS[0])
            for build in pages[0]["builds"]:
                assert (build["state"], build["attempt"] <= most) == ("succeeded", True)


async def _live_through(
    world: World, server: Server, clock: Path, jumps: tuple[int, int]
) -> tuple[list[str], float]:
    """Four pushes between two jumps, with a build that runs on, a remote that cannot be
    reached, and a GitHub that is away; return the commits, oldest first, and for how many
    seconds the remote was away.
    """
    long = world.origin.commit(
        script(gate(world.folder, "long-may-end")), executable=["ci"]
    )
    await server.push(long)
    await wait_until((world.folder / "long-may-end.reached").exists)
    await world.github.stop()
    _set(clock, jumps[0])
    quick = world.origin.commit(script("echo quick"), executable=["ci"])
    await server.push(quick, before=long)
    await server.finished(2)
    unreachable, last = (world.origin.commit({"n": n}) for n in "12")
    away = world.origin.path.with_suffix(".away")
    gone_at = time.monotonic()
    await asyncio.to_thread(shutil.move, world.origin.path, away)
    await server.push(unreachable, before=quick)

    async def waits() -> bool:
        build = await server.build(3)
        return (build["state"], build["attempt"]) == ("queued", 1)

    await wait_until(waits, what="the build whose remote is away")
    # First: by the other clock the next try may be due at once.
    await asyncio.to_thread(shutil.move, away, world.origin.path)
    gone_for = time.monotonic() - gone_at
    _set(clock, jumps[1])
    await world.github.start()
    open_gate(world.folder, "long-may-end")
    await server.push(last, before=unreachable)
    return [long, quick, unreachable, last], gone_for


def _set(clock: Path, wrong_by: int) -> None:
    """Set it at once: it is looked at any time."""
    new = clock.with_suffix(".new")
    new.write_text(str(wrong_by))
    new.replace(clock)


def _negative(value: Any, name: str = "") -> Iterator[str]:
    """Every duration or count below zero in a document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _negative(inner, f"{name}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _negative(inner, f"{name}[{number}]")
    elif isinstance(value, int | float) and value < 0:
        yield f"{name} = {value}"


@given(planned=HOURS, delay=st.floats(0, 3600), now=HOURS)
def test_nothing_waits_longer_than_the_longest_delay(
    planned: int, delay: float, now: int
) -> None:
    """Planned by one clock, looked at by another: an hour and a bit later it is due."""
    then = AN_HOUR * (planned + 100)
    later = AN_HOUR * (now + 100)
    with closing(memory()) as history:
        push(history, 1, 2)
        history.execute("UPDATE builds SET not_before = ?", (then + int(delay * 1000),))
        history.execute(
            "UPDATE outbox SET next_try_at = (SELECT not_before FROM builds)"
        )
        assert any(
            outbox.due(history, clock) for clock in (later, later + outbox.LONGEST_WAIT)
        )
        assert any(
            queue.claim(history, instance=1, at=clock, context=CONTEXT)
            for clock in (later, later + queue.LONGEST_WAIT)
        )


def test_no_delay_is_longer_than_what_is_taken_for_a_jump() -> None:
    assert max(DELAYS) * 1000 < queue.LONGEST_WAIT
    assert Pace().longest_retry * 1000 < outbox.LONGEST_WAIT
