"""Builds with fresh inputs in the history: last in the queue, and nothing for GitHub."""

from __future__ import annotations

import sqlite3

from ci.history import branch_states, builds, outbox, queue, retention, states, updates
from ci.history.updates import Asked
from ci.models import BuildState, Cause, Target
from tests.fakes.history import CONTEXT, REPO, commit, enqueue, memory

HERE = 1


def update(history: sqlite3.Connection, number: int) -> int | None:
    return updates.enqueue(history, HERE, commit(number), at=5, context=CONTEXT)


def state(history: sqlite3.Connection, number: int) -> BuildState:
    found = builds.get(history, number)
    assert found is not None
    return found.state


def begin(history: sqlite3.Connection) -> int:
    claimed = queue.claim(history, instance=1, at=9, context=CONTEXT)
    assert claimed is not None
    return claimed.number


def end(history: sqlite3.Connection, number: int, ended: BuildState) -> None:
    states.finish(
        history,
        number,
        ended,
        summary="s",
        targets=[Target("packages.a", ended, error="e")],
        at=10,
        seconds=1.0,
        context=CONTEXT,
    )


def test_whatever_was_pushed_is_begun_before() -> None:
    history = memory()
    enqueue(history, 1)
    assert update(history, 90) == 2
    enqueue(history, 2, 3)
    places = [queue.place(history, number, 9) for number in (1, 2, 3, 4)]
    assert [place and place.before for place in places] == [2, 3, 1, 0]
    assert [begin(history) for _ in range(4)] == [4, 3, 1, 2]


def test_github_is_told_nothing_whatever_becomes_of_it() -> None:
    history = memory()
    enqueue(history, 1)
    end(history, begin(history), BuildState.SUCCEEDED)
    told = outbox.backlog(history)
    assert update(history, 90) == 2
    for ended in (BuildState.FAILED, BuildState.SUCCEEDED, BuildState.ERROR):
        assert begin(history) == 2
        end(history, 2, ended)
        states.reopen(history, 2, at=11, context=CONTEXT)
    states.end_queued(
        history, 2, BuildState.CANCELLED, reason="r", at=12, context=CONTEXT
    )
    assert outbox.backlog(history) == told
    newest = builds.newest(history, REPO, "dev")
    assert newest is not None
    assert newest.number == 1
    assert branch_states.branches_seen(history, REPO) == ["dev"]
    build = builds.get(history, 2)
    assert build is not None
    assert (build.branch, build.cause, build.title) == (None, Cause.UPDATE, "commit 90")


def test_the_same_commit_is_built_once_and_an_older_one_waits_no_more() -> None:
    history = memory()
    enqueue(history, 1)
    assert (update(history, 90), update(history, 90)) == (2, None)
    assert state(history, 2) is BuildState.QUEUED
    assert update(history, 91) == 3
    assert state(history, 2) is BuildState.CANCELLED
    build = builds.get(history, 2)
    assert build is not None
    assert build.summary == "cancelled by newer inputs: superseded by #3"
    assert begin(history) == 1
    assert begin(history) == 3
    assert update(history, 92) == 4
    assert state(history, 3) is BuildState.RUNNING
    shas = {commit(number).sha for number in (90, 91, 92)}
    assert updates.commits(history, HERE) == shas
    retention.remove_builds(history, [2], [(REPO, "dev")])
    assert updates.commits(history, HERE) == shas - {commit(90).sha}


def test_one_that_was_lost_is_built_when_its_commit_is_there_again() -> None:
    history = memory()
    enqueue(history, 1)
    update(history, 90)
    states.end_queued(history, 2, BuildState.SKIPPED, reason="r", at=6, context=CONTEXT)
    assert update(history, 90) is None
    assert state(history, 2) is BuildState.QUEUED
    assert [begin(history), begin(history)] == [1, 2]


def test_how_the_last_try_went_is_remembered() -> None:
    history = memory()
    enqueue(history, 1)
    assert updates.asked(history) == {}
    for last in (Asked(7, 2, "no network"), Asked(8)):
        updates.remember(history, HERE, last)
        assert updates.asked(history) == {HERE: last}
