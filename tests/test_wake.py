"""The bell: nobody misses a ring, and a storm of rings is few strokes."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings, strategies as st

from ci.wake import TICK, Wake
from tests.fakes.waiting import PATIENCE


async def test_a_ring_in_a_quiet_moment_strikes_at_once() -> None:
    wake = Wake()
    wake()
    assert wake.count == 1


async def test_a_storm_is_few_strokes_and_the_last_ring_is_heard() -> None:
    wake, loop = Wake(), asyncio.get_running_loop()
    heard, begun = 0, loop.time()
    for _ in range(2000):
        wake()
        await asyncio.sleep(0)
    seen = wake.count
    wake()
    heard = await wake.wait(seen, PATIENCE)
    assert heard > seen
    assert wake.count <= (loop.time() - begun) / TICK + 2


@given(st.lists(st.booleans(), max_size=30))
@settings(max_examples=30, deadline=None)
def test_a_loop_that_looks_before_it_waits_sees_every_row(steps: list[bool]) -> None:
    """Rows are written and rung for at any moment; the reader must end with all."""

    async def run() -> int:
        wake, rows, seen_rows = Wake(), 0, 0

        async def reader() -> None:
            nonlocal seen_rows
            while seen_rows < len(steps):
                seen = wake.count
                seen_rows = rows
                if seen_rows < len(steps):
                    await wake.wait(seen, 3600)

        reading = asyncio.create_task(reader())
        for pause in steps:
            if pause:
                await asyncio.sleep(0)
            rows += 1
            wake()
        async with asyncio.timeout(PATIENCE):
            await reading
        return seen_rows

    assert asyncio.run(run()) == len(steps)
