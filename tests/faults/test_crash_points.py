"""`kill -9` at named points of every transaction: the next server makes it good."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ci.history.states import DEATHS
from tests.fakes import tree
from tests.fakes.invariants import check, history
from tests.fakes.mailbox import Mailbox
from tests.fakes.waiting import wait_until
from tests.faults.story import Story
from tests.faults.worlds import mortal_world

# What is quick enough for each run of the tests; `make test-faults` takes every point.
SOME = (
    ("ci.app._begin:done", "ci.history.queue.claim:committed"),
    ("ci.history.deliveries.accept:done", "ci.report.outbox.Outbox._begin:committed"),
    ("ci.build.record.finish:done",),
)
# Fewer deaths in a life than make a build an error: they might all be during one.
TOGETHER = DEATHS - 1
AT_ONCE = 3
PATIENCE = 400.0
# Transactions that the story does not come to, and what stands for them.
ELSEWHERE = {
    "dead": "one UPDATE, as `failed` is; tests/history/test_outbox.py",
    "postpone": "one UPDATE that only puts off, until the remote answers",
    "condemn": "what is half removed the next pass removes; tests/history/test_retention.py",
    "forget_removed": "as above",
    "remove": "as above",
    "remove_some": "a name of remove_answered, remove_missed and remove_instances",
    "enqueue": "of updates: done again it changes nothing; tests/history/test_updates.py",
    "remember": "one row: without it the inputs are only asked for again",
    "_note_check": "settles `told` and `notices` as `_note_branch` does",
    "<lambda>": "of the watchdog: it changes nothing",
}


async def live(folder: Path, points: Collection[str] = (), **orders: str) -> list[str]:
    """Tell the story, check all promises; return at which of `points` a server died."""
    async with mortal_world(folder) as world, Mailbox() as mailbox:
        story = Story(world, mailbox)
        await story.run(points, **orders)
        async with world.server() as server:
            await _as_wanted(story)
            await check(world, server, world.github)
            await story.everybody_knows()
        wrong = await asyncio.to_thread(_wrong, story)
        assert not wrong, "\n".join(wrong)
        return story.deaths


async def _as_wanted(story: Story) -> None:
    """Wait for it: a story cut short ends with commits that the server has yet to see."""

    async def right() -> bool:
        return not await asyncio.to_thread(_wrong, story)

    # What is wrong after that, the next look says.
    with suppress(AssertionError):
        await wait_until(right)


def _wrong(story: Story) -> list[str]:
    """Commits whose build did not end as they deserve, or paid for a death."""
    with closing(history(story.world.state_dir)) as connection:
        rows = connection.execute("SELECT * FROM builds").fetchall()
    unknown = story.wanted.keys() - {row["sha"] for row in rows}
    return [f"{sha[:7]} has no build" for sha in sorted(unknown)] + [
        f"{row['sha'][:7]} is {row['state']} after {row['attempt']} attempts, "
        f"{row['counted']} counted: {row['summary']}"
        for row in rows
        if row["state"] not in story.wanted[row["sha"]].split() or row["counted"]
    ]


async def rehearse(folder: Path) -> list[str]:
    """Tell the story undisturbed; return the points it comes to, in their order."""
    record = folder / "record"
    assert await live(folder / "rehearsal", RECORD=str(record)) == []
    return list(dict.fromkeys((await asyncio.to_thread(record.read_text)).split()))


async def crash(folder: Path, lives: Sequence[Collection[str]]) -> set[str]:
    """One world for each of `lives`, a few at a time; a server dies at each point of it.

    Returns the points that it was not led past: after a death all goes another way.
    """
    free = asyncio.Semaphore(AT_ONCE)
    failures: list[str] = []
    missed: set[str] = set()

    async def one(number: int, points: Collection[str]) -> None:
        async with free:
            try:
                async with asyncio.timeout(PATIENCE):
                    died = await live(folder / str(number), points)
                missed.update(set(points).difference(died))
            except (AssertionError, TimeoutError) as error:
                failures.append(f"{', '.join(points)}: {str(error) or 'it hangs'}")

    async with asyncio.TaskGroup() as group:
        for number, points in enumerate(lives):
            group.create_task(one(number, points))
    assert not failures, "\n\n".join(failures)
    return missed


async def test_the_story_comes_to_every_transaction(tmp_path: Path) -> None:
    points = await rehearse(tmp_path)
    told = {point.split(":")[0].rsplit(".", 1)[1] for point in points}
    missing = {
        f"{name} ({path})"
        for path, name in _transactions()
        if name not in told and name not in ELSEWHERE
    }
    assert not missing, f"add to the story, or say why not: {sorted(missing)}"


async def test_death_at_some_points(tmp_path: Path) -> None:
    assert await crash(tmp_path, SOME) == set()


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_death_at_every_point(tmp_path: Path) -> None:
    """Right before and right after each COMMIT; a transaction begins as the last ended."""
    points = [p for p in await rehearse(tmp_path) if not p.endswith(":begun")]
    assert len(points) >= 40
    lives = -(-len(points) // TOGETHER)
    missed = await crash(tmp_path / "first", [points[n::lives] for n in range(lives)])
    assert (
        await crash(tmp_path / "alone", [[point] for point in sorted(missed)]) == set()
    )
    print(f"{len(points)} points; {len(missed)} of them in a life of their own")


def _transactions() -> Iterator[tuple[Path, str]]:
    """The functions that `ci` hands to `Database.write`, and where."""
    for path, body in tree.python("ci"):
        for node in ast.walk(body):
            if isinstance(node, ast.Call) and _writes(node.func):
                given = node.args[0]
                yield (
                    path,
                    ast.unparse(given).rsplit(".", 1)[-1]
                    if not isinstance(given, ast.Lambda)
                    else "<lambda>",
                )


def _writes(called: ast.expr) -> bool:
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "write"
        and ast.unparse(called.value).endswith("database")
    )
