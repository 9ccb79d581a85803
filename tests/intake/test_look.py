"""What one look at a remote makes of the history: nothing missed, nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ci.history import watched
from ci.history.database import Database
from ci.models import BuildState
from tests.fakes.push import ZERO
from tests.intake.town import Town


@pytest.fixture
async def town(database: Database, tmp_path: Path) -> Town:
    return await Town(database, tmp_path).open()


async def test_first_sight_of_a_branch_is_its_head_alone(town: Town) -> None:
    shas = await town.commits(5)
    assert await town.look() == 1
    (build,) = await town.builds()
    assert (build.sha, build.branch, build.cause) == (shas[-1], "dev", "reconcile")
    assert (build.title, build.author) == ("Commit 5", "Ada Lovelace")
    assert await town.look() == 0


async def test_every_commit_since_is_found_in_order(town: Town) -> None:
    await town.commit("seen")
    await town.look()
    shas = await town.commits(4)
    assert await town.look() == 4
    assert (await town.order())[1:] == shas
    heads = await town.rows("SELECT sha FROM builds WHERE head = 1 ORDER BY number")
    assert heads[-1]["sha"] == shas[-1]
    pending = await town.rows("SELECT sha FROM outbox WHERE state = 'pending'")
    assert [row["sha"] for row in pending] == [heads[0]["sha"], shas[-1]]


@pytest.mark.parametrize("seen_before", [False, True])
async def test_a_head_that_was_thought_vanished_is_built_when_it_is_there(
    town: Town, seen_before: bool
) -> None:
    """Some of GitHub's servers may not have known it for minutes."""
    base = await town.commit("base")
    await town.look()
    await town.finish()
    head = await town.commit("head")
    await town.push(base, head)
    if seen_before:
        await town.look()
    await town.finish(BuildState.SKIPPED)
    assert await town.state(head) == "skipped"
    assert await town.look() == 0
    assert await town.states() == {"base": "succeeded", "told": "queued"}
    assert await town.order() == [base, head]
    await town.finish()
    asked = town.mirror.times
    await town.look()
    assert (await town.state(head), town.mirror.times) == ("succeeded", asked + 1)


async def test_a_head_that_is_not_wanted_is_settled(
    database: Database, tmp_path: Path
) -> None:
    """What was skipped untried is no reason to fetch at each look."""
    town = await Town(database, tmp_path, {"skip_ci": True}).open()
    base = await town.commit("base")
    await town.look()
    head = await town.commit("head [skip ci]")
    await town.push(base, head, message="head [skip ci]")
    town.mirror.fetched.clear()
    await town.look()
    assert await town.state(head) == "skipped"
    assert not town.mirror.fetched.is_set()


async def test_beyond_the_limit_the_oldest_are_skipped_with_the_reason(
    database: Database, tmp_path: Path
) -> None:
    limited = {"max_commits_per_push": 2, "skip_ci": True}
    town = await Town(database, tmp_path, limited).open()
    await town.commit("seen")
    await town.look()
    for title in ("one", "two", "three [skip ci]", "four"):
        await town.commit(title)
    await town.look()
    assert await town.states() == {
        "seen": "queued",
        "one": "skipped",
        "two": "queued",
        "three [skip ci]": "skipped",
        "four": "queued",
    }
    reasons = {build.title: build.summary for build in await town.builds()}
    assert reasons["one"] == "over the limit of 2 commits per push"
    assert "asks to skip CI" in reasons["three [skip ci]"]


async def test_with_the_policy_latest_only_the_head(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, {"policy": "latest"}).open()
    await town.commit("old")
    await town.look()
    for title in ("between", "new"):
        await town.commit(title)
    assert await town.look() == 1
    old, new = await town.builds()
    assert (old.state, new.state, new.title) == ("cancelled", "queued", "new")
    assert old.summary == "cancelled by a newer head: superseded by #2"


async def test_a_force_push_leaves_what_waited_behind(town: Town) -> None:
    base = await town.commit("base")
    await town.look()
    await town.finish()
    await town.commit("away 1")
    await town.commit("away 2")
    await town.look()
    head = await asyncio.to_thread(town.origin.force, base, {"a": "b"}, "new")
    assert await town.look() == 1
    assert await town.states() == {
        "base": "succeeded",
        "away 1": "skipped",
        "away 2": "skipped",
        "new": "queued",
    }
    gone = (await town.builds())[1]
    assert gone.summary == f"no longer on dev after the force push to {head[:7]}"
    assert (await town.order())[-1] == head


async def test_what_waits_on_another_branch_too_stays(town: Town) -> None:
    base = await town.commit("base")
    await town.look()
    both = await town.commit("both")
    await asyncio.to_thread(town.origin.branch, "main", both)
    await town.look()
    await asyncio.to_thread(town.origin.force, base, {"a": "b"}, "new")
    await town.look()
    assert (await town.states())["both"] == "queued"
    await asyncio.to_thread(town.origin.delete, "main")
    await town.look()
    assert (await town.states())["both"] == "queued"


async def test_a_history_written_anew_is_its_head_alone(town: Town) -> None:
    await town.commits(3)
    await town.look()
    await asyncio.to_thread(town.origin.delete, "dev")
    shas = await town.commits(4)
    assert await town.look() == 1
    assert (await town.order())[-1] == shas[-1]


async def test_a_branch_that_went_back_is_not_built_again(town: Town) -> None:
    base = await town.commit("base")
    await town.look()
    newer = await town.commit("newer")
    await town.look()
    await town.finish()
    await asyncio.to_thread(town.origin.branch, "dev", base)
    assert await town.look() == 0
    assert await town.order() == [newer, base]
    assert set((await town.states()).values()) == {"succeeded"}
    await asyncio.to_thread(town.origin.branch, "dev", newer)
    assert await town.look() == 0
    assert await town.order() == [base, newer]


async def test_what_a_force_push_took_away_is_built_when_it_comes_back(
    town: Town,
) -> None:
    base = await town.commit("base")
    await town.look()
    await town.finish()
    await town.commit("one")
    await town.commit("two")
    await town.look()
    await asyncio.to_thread(town.origin.branch, "dev", base)
    await town.look()
    assert (await town.states())["one"] == "skipped"
    back = (await town.builds())[-1].sha
    await asyncio.to_thread(town.origin.branch, "dev", back)
    await town.commit("three")
    await town.look()
    assert await town.states() == {
        "base": "succeeded",
        "one": "queued",
        "two": "queued",
        "three": "queued",
    }


async def test_a_deleted_branch_ends_what_waited_and_may_come_back(
    town: Town,
) -> None:
    head = await town.commit("head")
    await town.look()
    await asyncio.to_thread(town.origin.delete, "dev")
    assert await town.look() == 0
    (build,) = await town.builds()
    assert (build.state, build.summary) == ("skipped", "branch dev was deleted")
    (row,) = await town.rows("SELECT * FROM watched_branches")
    assert row["sha"] == watched.GONE
    await town.look()
    await asyncio.to_thread(town.origin.branch, "dev", head)
    await town.look()
    assert (await town.states()) == {"head": "queued"}


async def test_a_push_that_deletes_a_branch_ends_what_waited(town: Town) -> None:
    head = await town.commit("head")
    await town.push(ZERO, head, created=True)
    receipt = await town.push(head, deleted=True)
    assert not receipt.accepted
    (build,) = await town.builds()
    assert (build.state, build.summary) == ("skipped", "branch dev was deleted")
    # It was the news of yesterday: the branch is there, and its head is wanted.
    await town.look()
    (build,) = await town.builds()
    assert build.state == "queued"


async def test_old_news_of_a_deletion_ends_nothing(town: Town) -> None:
    old, new = await town.commits(2)
    await town.push(ZERO, old, new, created=True)
    await town.push(old, deleted=True)
    assert {build.state for build in await town.builds()} == {"queued"}


async def test_a_webhook_before_after_or_without_the_look_is_the_same(
    town: Town,
) -> None:
    base = await town.commit("base")
    await town.look()
    first = await town.commit("first")
    assert (await town.push(base, first)).builds == (2,)
    assert await town.look() == 0
    second = await town.commit("second")
    assert await town.look() == 1
    assert (await town.push(first, second)).builds == (3,)
    third = await town.commit("third")
    await town.look()
    fourth = await town.commit("fourth")
    await town.look()
    # Old news, in the wrong order: nothing moves.
    assert (await town.push(third, fourth)).builds == (5,)
    assert (await town.push(second, third)).builds == (4,)
    assert await town.order() == [base, first, second, third, fourth]
    assert [build.number for build in await town.builds()] == [1, 2, 3, 4, 5]


async def test_a_replay_wakes_nothing_that_a_force_push_ended(town: Town) -> None:
    base = await town.commit("base")
    await town.look()
    one, two = await town.commits(2)
    await town.look()
    await asyncio.to_thread(town.origin.branch, "dev", base)
    await town.look()
    await town.push(one, two)
    assert await town.order() == [one, two, base]
    assert await town.state(two) == "skipped"


async def test_pushes_that_came_in_part_are_completed(
    database: Database, tmp_path: Path
) -> None:
    """Also where the head is never built, which would find its own gap."""
    town = await Town(database, tmp_path, {"skip_ci": True}).open()
    base = await town.commit("base")
    await town.look()
    lost = await town.commit("lost")
    told = await town.commit("told [skip ci]")
    await town.push(lost, told, message="told [skip ci]")
    await town.finish()
    assert await town.look() == 1
    assert await town.state(lost) == "queued"
    assert await town.state(told) == "skipped"
    assert await town.order() == [base, lost, told]


async def test_a_push_that_comes_while_we_look_is_not_undone(town: Town) -> None:
    """The remote was asked before the push, the history is written after it."""
    base = await town.commit("base")
    await town.look()
    missed = await town.commit("missed")
    town.mirror.goes_on.clear()
    town.mirror.fetched.clear()
    looking = asyncio.create_task(town.look())
    await town.mirror.fetched.wait()
    newer = await town.commit("newer")
    await town.push(missed, newer)
    town.mirror.goes_on.set()
    await looking
    assert await town.order() == [base, missed, newer]
    assert await town.state(newer) == "queued"


async def test_a_remote_that_lags_behind_a_fresh_push_is_not_believed(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, fresh=60_000).open()
    base = await town.commit("base")
    await town.look()
    newer = await town.commit("newer")
    await town.push(base, newer)
    await asyncio.to_thread(town.origin.branch, "dev", base)
    assert not await town.looker(alarm=lambda: False)
    assert await town.order() == [base, newer]
    assert await town.state(newer) == "queued"
    await asyncio.to_thread(town.origin.delete, "dev")
    assert not await town.looker(alarm=lambda: False)
    assert await town.state(newer) == "queued"


async def test_an_unannounced_move_is_remembered_until_github_tells(
    town: Town,
) -> None:
    base = await town.commit("base")
    await town.look(alarm=True)
    assert await town.database.read(watched.unannounced) == []
    head = await town.commit("quiet")
    await town.look(alarm=True)
    (found,) = await town.database.read(watched.unannounced)
    assert (found.branch, found.sha) == ("dev", head)
    await town.push(ZERO, base, branch="other", at=found.seen_at - 1)
    await town.database.write(watched.heard)
    assert await town.database.read(watched.unannounced) == [found]
    await town.push(base, head)
    await town.database.write(watched.heard)
    assert await town.database.read(watched.unannounced) == []
    told = await town.commit("told")
    await town.push(head, told)
    await town.look(alarm=True)
    assert await town.database.read(watched.unannounced) == []


async def test_thousands_of_commits_end_within_bounds(town: Town) -> None:
    await town.commit("seen")
    await town.look()
    shas = await town.commits(2100)
    await town.look()
    counts = await town.rows("SELECT state, count(*) AS n FROM builds GROUP BY state")
    assert {row["state"]: row["n"] for row in counts} == {
        "queued": 101,
        "skipped": 2000,
    }
    assert (await town.order())[-1] == shas[-1]
