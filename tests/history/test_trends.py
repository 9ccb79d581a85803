"""The last builds in numbers: what is counted, and that a long history costs nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hypothesis import given, settings, strategies as st

from ci.history import trends
from ci.history.trends import Past, Tried, percentile, rolling
from ci.models import BuildState
from tests.fakes.history import REPO, enqueue, memory

GOOD, BAD = BuildState.SUCCEEDED, BuildState.FAILED


def past(
    number: int,
    state: BuildState,
    finished_at: int | None = 0,
    *attempts: Tried,
    branch: str | None = "dev",
    position: int | None = None,
    queued_at: int = 0,
) -> Past:
    place = number if position is None else position
    line = (1, branch)
    return Past(number, line, place, state, "", queued_at, finished_at, 1.0, attempts)


def tried(begun: int, ended: int | None, outcome: str = "succeeded") -> Tried:
    return Tried(begun, ended, None, outcome, None, None, None)


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.floats(0, 1))
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values)
    lower = [value for value in values if value < found]
    assert not lower or sum(v <= max(lower) for v in values) < share * len(values)


def test_percentiles_of_nothing_and_moving_ones() -> None:
    assert percentile([], 0.5) is None
    assert rolling([None, 4.0, None, 2.0, 9.0], 0.5, 2) == [None, 4.0, 4.0, 2.0, 2.0]


@settings(deadline=None)
@given(
    st.lists(st.none() | st.integers(0, 9), max_size=40),
    st.floats(0, 1),
    st.integers(1, 7),
)
def test_a_moving_percentile_is_that_of_the_last_values(
    values: list[int | None], share: float, span: int
) -> None:
    found = rolling(values, share, span)
    for place in range(len(values)):
        known = [value for value in values[: place + 1] if value is not None]
        assert found[place] == percentile(known[-span:], share)


def test_a_repair_is_from_the_first_failure_to_the_next_good_build() -> None:
    window = [
        past(1, BAD, 1000),  # Nobody saw it break.
        past(2, GOOD, 2000),
        past(3, BAD, 10_000),
        past(4, BuildState.ERROR, 11_000),
        past(5, BAD, 12_000),
        past(6, GOOD, 40_000),
        past(7, BAD, 50_000),  # Still broken.
        past(8, GOOD, 10, branch="main"),
        past(9, BAD, 20, branch="main"),
        past(10, GOOD, 1020, branch="main"),
        past(11, GOOD, 0, branch=None),
    ]
    assert trends.repairs(window) == [30.0, 1.0]


def test_repairs_go_by_the_order_of_the_branch() -> None:
    """Older commits may have higher numbers, and be built later."""
    window = [
        past(1, GOOD, 0, position=1),
        past(2, GOOD, 5000, position=3),
        past(3, BAD, 9000, position=2),
    ]
    assert trends.repairs(window) == [0.0]


def test_a_wait_is_that_before_the_first_attempt_since_it_was_queued() -> None:
    again = past(1, GOOD, 0, tried(100, 200), tried(5500, 6000), tried(9000, 9900))
    assert again.wait == 0.1
    reopened = past(1, GOOD, 0, tried(100, 200), tried(5500, 6000), queued_at=5000)
    assert reopened.wait == 0.5
    assert past(1, BuildState.QUEUED, None).wait is None


def test_the_builder_is_as_busy_as_its_attempts_say() -> None:
    window = [past(1, GOOD, 0, tried(0, 1000)), past(2, GOOD, 0, tried(1000, None))]
    assert trends.busy(window, 1, 2000) == 1.0
    assert trends.busy(window, 2, 2000) == 0.5
    assert trends.busy(window, 2, 4000) == 0.5
    assert trends.busy([], 2, 4000) is None
    assert trends.busy(window, 0, 4000) is None


def finish(connection: sqlite3.Connection, number: int, used: int) -> None:
    connection.execute(
        "UPDATE builds SET state = 'succeeded', seconds = 2.5 WHERE number = ?",
        (number,),
    )
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at, finished_at, "
        "outcome, built, substituted, store_used) VALUES (?, 1, 1, 10, 20, ?, 1, 2, ?)",
        (number, "error", used),
    )


def test_a_window_has_the_newest_builds_of_what_was_asked_for() -> None:
    connection = memory()
    dev = enqueue(connection, 1, 2, 3)
    main = enqueue(connection, 4, 5, branch="main")
    finish(connection, dev[2], 7)

    def numbers(**asked: str | int | None) -> list[int]:
        found = trends.window(connection, **asked)  # type: ignore[arg-type]
        return [build.number for build in found]

    assert numbers() == [*dev, *main]
    assert numbers(limit=2) == main
    assert numbers(repo=REPO, branch="dev", limit=2) == dev[1:]
    assert numbers(branch="main") == main
    assert numbers(repo="owner/other") == []
    assert numbers(repo=REPO) == [*dev, *main]
    (last,) = trends.window(connection, REPO, "dev", 1)
    assert last.state is GOOD
    assert last.errors == 1
    assert last.last is not None
    assert (last.last.built, last.last.substituted, last.last.store_used) == (1, 2, 7)
    assert [build.position for build in trends.window(connection, REPO, "dev")] == [
        1,
        2,
        3,
    ]


def test_the_store_is_that_of_the_newest_derivation() -> None:
    connection = memory()
    first, last = enqueue(connection, 1, 2)
    assert trends.store_of(connection, last) is None
    for build, store in ((first, "/old/store"), (last, "/new/store")):
        connection.execute(
            "INSERT INTO targets (build, name, position, state, derivation) "
            "VALUES (?, 'a', 0, 'succeeded', ?)",
            (build, f"{store}/hash-a.drv"),
        )
    assert trends.store_of(connection, last) == Path("/new/store")
    assert trends.store_of(connection, first) == Path("/old/store")


def test_no_question_walks_through_the_whole_history() -> None:
    """Every table is searched by an index, or read from its end and cut off."""
    connection = memory()
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    for repo in (None, REPO):
        for branch in (None, "dev"):
            trends.window(connection, repo, branch)
    trends.store_of(connection, 500)
    connection.set_trace_callback(None)
    assert len(asked) == 9
    for sql in asked:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        scans = [step for step in plan if step.startswith("SCAN")]
        allowed = {"SCAN json_each VIRTUAL TABLE INDEX 1:"}
        if "(SELECT number FROM builds ORDER BY number DESC LIMIT 200)" in sql:
            allowed.add("SCAN builds")
        assert set(scans) <= allowed, (sql, plan)
        assert not [step for step in plan if "TEMP B-TREE" in step], (sql, plan)
