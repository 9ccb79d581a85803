"""The life of a build: only the changes of the table, in whatever order things come."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ci.errors import ForbiddenTransition
from ci.history import builds, queue, states
from ci.models import FINAL_STATES, TRANSITIONS, BuildState, Target, check_transition
from tests.fakes.history import CONTEXT, enqueue, memory

VERDICTS = sorted(FINAL_STATES - {BuildState.SKIPPED})


def test_the_table_is_what_the_documentation_says() -> None:
    allowed = {(old, new) for old, news in TRANSITIONS.items() for new in news}
    live = {BuildState.QUEUED, BuildState.RUNNING}
    assert {old for old, _ in allowed} == set(BuildState)
    assert {(o, n) for o, n in allowed if o not in live} == {
        (state, BuildState.QUEUED) for state in FINAL_STATES
    }
    with pytest.raises(ForbiddenTransition, match="succeeded build cannot become"):
        check_transition(BuildState.SUCCEEDED, BuildState.FAILED)


class Life(RuleBasedStateMachine):
    """Random claims, ends, retries, cancels and deaths against a model of states."""

    @initialize()
    def begin(self) -> None:
        self.history = memory()
        self.states: dict[int, BuildState] = {}
        self.deaths: dict[int, int] = {}
        self.pushed = 0

    def teardown(self) -> None:
        if hasattr(self, "history"):
            self.history.close()

    def _some(self, state: BuildState) -> int | None:
        return next((n for n, s in self.states.items() if s is state), None)

    @rule()
    def push(self) -> None:
        self.pushed += 1
        for number in enqueue(self.history, self.pushed):
            self.states[number] = BuildState.QUEUED
            self.deaths[number] = 0

    @rule()
    def claim(self) -> None:
        claimed = queue.claim(self.history, instance=1, at=5, context=CONTEXT)
        waiting = self._some(BuildState.QUEUED)
        assert (claimed is None) == (waiting is None)
        if claimed is not None:
            assert self.states[claimed.number] is BuildState.QUEUED
            self.states[claimed.number] = BuildState.RUNNING

    @rule(state=st.sampled_from(VERDICTS))
    def finish(self, state: BuildState) -> None:
        number = self._some(BuildState.RUNNING)
        if number is None:
            return
        states.finish(
            self.history,
            number,
            state,
            summary="s",
            targets=[Target(name="t", state=state, error="e")],
            at=6,
            seconds=1.0,
            context=CONTEXT,
        )
        self.states[number] = state

    @rule(state=st.sampled_from(VERDICTS))
    def cannot_finish_what_does_not_run(self, state: BuildState) -> None:
        number = self._some(BuildState.QUEUED)
        if number is None or state is BuildState.CANCELLED:
            return
        self.history.execute("BEGIN")
        with pytest.raises(ForbiddenTransition):
            states.finish(
                self.history,
                number,
                state,
                summary="",
                targets=(),
                at=6,
                seconds=0.0,
                context=CONTEXT,
            )
        self.history.execute("ROLLBACK")

    @rule()
    def reopen(self) -> None:
        number = next((n for n, s in self.states.items() if s.final), None)
        if number is not None:
            states.reopen(self.history, number, at=7, context=CONTEXT)
            self.states[number] = BuildState.QUEUED
            self.deaths[number] = 0

    @rule()
    def cancel_waiting(self) -> None:
        number = self._some(BuildState.QUEUED)
        if number is not None:
            states.end_queued(
                self.history,
                number,
                BuildState.CANCELLED,
                reason="by you",
                at=8,
                context=CONTEXT,
            )
            self.states[number] = BuildState.CANCELLED

    @rule(died=st.booleans())
    def restart(self, died: bool) -> None:
        running = {n for n, s in self.states.items() if s is BuildState.RUNNING}
        found = states.recover(self.history, at=9, context=CONTEXT, died=died)
        assert set(found) == running
        for number in running:
            self.deaths[number] += int(died)
            dead = died and self.deaths[number] >= states.DEATHS
            self.states[number] = BuildState.ERROR if dead else BuildState.QUEUED

    @invariant()
    def history_agrees(self) -> None:
        if not hasattr(self, "states"):
            return
        found = {b.number: b.state for b in builds.page(self.history, limit=1000)}
        assert found == self.states
        counted = {s: n for (_, s), n in builds.counts(self.history).items() if n}
        assert counted == {
            state: sum(s is state for s in self.states.values())
            for state in set(self.states.values())
        }


Life.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None
)
TestLife = Life.TestCase


@pytest.fixture
def history() -> Iterator[sqlite3.Connection]:
    with closing(memory()) as connection:
        yield connection


def test_an_interruption_is_free_and_our_own_fault_is_counted(
    history: sqlite3.Connection,
) -> None:
    (number,) = enqueue(history, 1)
    for counted, expected in ((False, 0), (True, 1), (True, 2)):
        claimed = queue.claim(history, instance=1, at=5, context=CONTEXT)
        assert claimed is not None
        states.requeue(
            history,
            number,
            reason="r",
            counted=counted,
            not_before=0,
            at=6,
            seconds=1.0,
        )
        row = history.execute("SELECT counted FROM builds").fetchone()
        assert row["counted"] == expected
    assert history.execute("SELECT attempt FROM builds").fetchone()["attempt"] == 3
    outcomes = [r["outcome"] for r in history.execute("SELECT outcome FROM attempts")]
    assert outcomes == ["interrupted", "error", "error"]


def test_a_retry_waits_for_its_time(history: sqlite3.Connection) -> None:
    (number,) = enqueue(history, 1)
    queue.claim(history, instance=1, at=5, context=CONTEXT)
    states.requeue(
        history,
        number,
        reason="no network",
        counted=False,
        not_before=100,
        at=6,
        seconds=0.1,
    )
    assert queue.claim(history, instance=1, at=99, context=CONTEXT) is None
    assert queue.next_retry_at(history, 99) == 100
    assert queue.claim(history, instance=1, at=100, context=CONTEXT) is not None
