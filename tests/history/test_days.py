"""What ended on each day: the counters are the rows, whatever happens to a build."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ci.history import branches, days, progress, queue, retention, states
from ci.history.database import connect_writer
from ci.history.days import DAY_MS, Spread
from ci.history.schema import migrate, migrations_directory
from ci.models import BuildState
from tests.fakes.history import CONTEXT, REPO, enqueue, memory
from tests.fakes.invariants import miscounted_days
from tests.fakes.old_history import old_history

S = BuildState
VERDICTS = (S.SUCCEEDED, S.FAILED, S.ERROR, S.CANCELLED)


def finish(
    connection: sqlite3.Connection, number: int, state: BuildState, at: int, took: float
) -> None:
    states.finish(
        connection,
        number,
        state,
        summary="so",
        targets=(),
        at=at,
        seconds=took,
        context=CONTEXT,
    )


class Life:
    """A history to which things happen at random, on a clock of its own."""

    def __init__(self, seed: int) -> None:
        self.dice, self.at, self.commits = random.Random(seed), 10 * DAY_MS, 0
        self.connection = memory()

    def live(self) -> None:
        things: tuple[Callable[[], None], ...] = (
            *(self.push, self.begin, self.end),
            *(self.again, self.give_up, self.put_back, self.measure, self.merge),
            *(self.forget, self.leave),
        )
        for _ in range(60):
            self.at += self.dice.randrange(DAY_MS // 3)
            self.dice.choice(things)()
            assert not list(miscounted_days(self.connection))

    def any(self, *wanted: BuildState) -> int | None:
        marks = ",".join("?" * len(wanted))
        rows = self.connection.execute(
            f"SELECT number FROM builds WHERE state IN ({marks})",  # noqa: S608 — marks
            wanted,
        ).fetchall()
        return self.dice.choice(rows)["number"] if rows else None

    def push(self) -> None:
        self.commits += 1
        enqueue(self.connection, self.commits, branch=self.dice.choice(["dev", None]))

    def begin(self) -> None:
        queue.claim(self.connection, instance=1, at=self.at, context=CONTEXT)

    def end(self) -> None:
        if number := self.any(S.RUNNING):
            took = self.dice.expovariate(1 / 500)
            finish(self.connection, number, self.dice.choice(VERDICTS), self.at, took)

    def again(self) -> None:
        if number := self.any(*VERDICTS, S.SKIPPED):
            states.reopen(self.connection, number, at=self.at, context=CONTEXT)

    def give_up(self) -> None:
        if number := self.any(S.QUEUED):
            states.end_queued(
                self.connection,
                number,
                self.dice.choice((S.CANCELLED, S.SKIPPED)),
                reason="so",
                at=self.at,
                context=CONTEXT,
            )

    def put_back(self) -> None:
        if number := self.any(S.RUNNING):
            states.requeue(
                self.connection,
                number,
                reason="so",
                counted=False,
                not_before=0,
                at=self.at,
                seconds=1.0,
            )

    def measure(self) -> None:
        """Also when it has ended already."""
        if number := self.any(S.RUNNING, *VERDICTS):
            progress.record_attempt(
                self.connection,
                number,
                1,
                steps=(),
                built=self.dice.choice((None, 0, 3)),
                substituted=self.dice.choice((None, 7)),
                store_used=None,
            )

    def merge(self) -> None:
        if number := self.any(*S):
            branches.place(self.connection, 1, "main", [number])

    def forget(self) -> None:
        if number := self.any(*VERDICTS):
            self.connection.execute("DELETE FROM outbox")
            retention.remove_builds(self.connection, [number], [])

    def leave(self) -> None:
        if number := self.any(*S):
            self.connection.execute(
                "DELETE FROM branch_commits WHERE build = ?", (number,)
            )


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_the_days_are_what_the_builds_say(seed: int) -> None:
    life = Life(seed)
    life.live()
    counted = days.totals(life.connection, 0)
    ended = life.connection.execute(
        "SELECT count(*) FROM builds WHERE finished_at IS NOT NULL"
    ).fetchone()[0]
    assert counted.ended == ended
    assert not life.connection.execute("SELECT * FROM days WHERE n = 0").fetchall()


def test_days_are_told_of_all_of_a_repository_and_of_a_branch() -> None:
    connection = memory()
    enqueue(connection, 1, 2, 3)
    enqueue(connection, 4, branch="main")
    ends = ((S.SUCCEEDED, 5), (S.FAILED, 5), (S.SUCCEEDED, 7), (S.ERROR, 7))
    for state, day in ends:
        claimed = queue.claim(connection, instance=1, at=2001, context=CONTEXT)
        assert claimed is not None
        finish(connection, claimed.number, state, day * DAY_MS + 1, 12.0)
    everything = days.calendar(connection, REPO, None, 0)
    assert everything == {
        5: {S.SUCCEEDED: 1, S.FAILED: 1},
        7: {S.SUCCEEDED: 1, S.ERROR: 1},
    }
    assert days.calendar(connection, REPO, None, 6) == {7: everything[7]}
    dev = days.calendar(connection, REPO, "dev", 0)
    main = days.calendar(connection, REPO, "main", 0)
    assert sum(sum(each.values()) for each in dev.values()) == 3
    assert sum(sum(each.values()) for each in main.values()) == 1
    assert days.calendar(connection, "no/body", None, 0) == {}
    whole = days.totals(connection, 0)
    assert whole == days.totals(connection, 0, REPO)
    assert whole.states == {S.SUCCEEDED: 2, S.FAILED: 1, S.ERROR: 1}
    assert whole.waited.counted == [(2.1, 4)]
    assert days.totals(connection, 0, None, "main").ended == 1
    assert days.totals(connection, 8).ended == 0


def test_a_wait_is_until_the_first_attempt_since_it_was_asked_for_last() -> None:
    connection = memory()
    (number,) = enqueue(connection, 1)
    queue.claim(connection, instance=1, at=5001, context=CONTEXT)
    states.requeue(
        connection,
        number,
        reason="so",
        counted=False,
        not_before=0,
        at=6000,
        seconds=1.0,
    )
    queue.claim(connection, instance=1, at=9001, context=CONTEXT)
    finish(connection, number, S.FAILED, 10_000, 1.0)
    assert _waited(connection) == 5000
    states.reopen(connection, number, at=20_000, context=CONTEXT)
    assert _waited(connection) is None
    queue.claim(connection, instance=1, at=21_000, context=CONTEXT)
    assert _waited(connection) == 1000


def _waited(connection: sqlite3.Connection) -> int | None:
    found: int | None = connection.execute("SELECT waited FROM builds").fetchone()[0]
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 30_000), min_size=1, max_size=30), st.floats(0, 1))
def test_a_percentile_is_within_five_percent(took: list[float], share: float) -> None:
    connection = memory()
    numbers = enqueue(connection, *range(1, len(took) + 1))
    for number, seconds in zip(numbers, took, strict=True):
        connection.execute(
            "UPDATE builds SET state = 'succeeded', finished_at = 1, seconds = ? "
            "WHERE number = ?",
            (seconds, number),
        )
    ordered = sorted(took)
    exact = Spread([(seconds, 1) for seconds in ordered]).percentile(share)
    found = days.totals(connection, 0).took.percentile(share)
    assert exact is not None
    assert found is not None
    # Half a step of a tenth of a second where that is more.
    assert abs(found - exact) <= max(0.05 * exact, 0.05) + 1e-6


def test_nothing_has_no_percentile() -> None:
    assert Spread().percentile(0.5) is None


def test_an_older_history_is_counted_when_it_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    old_history(path, 2)
    with closing(connect_writer(path)) as connection:
        migrate(connection, migrations_directory())
        assert not list(miscounted_days(connection))
        assert days.totals(connection, 0).ended > 0
        assert days.totals(connection, 0, None, "dev").waited.counted


def test_reading_a_year_walks_no_builds() -> None:
    plan = [
        row["detail"]
        for row in memory().execute(
            "EXPLAIN QUERY PLAN SELECT kind, value, sum(n) FROM days "
            "WHERE repository_id = 0 AND branch = '' AND kind IN ('took') AND day >= 5 "
            "GROUP BY kind, value"
        )
    ]
    assert plan[0].startswith("SEARCH days USING PRIMARY KEY"), plan
    assert "day>" in plan[0]
