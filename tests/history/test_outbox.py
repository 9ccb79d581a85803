"""The outbox in SQLite: nothing overtakes, nothing is lost, nothing stale is sent."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ci.errors import HistoryError
from ci.history import outbox, queue, repositories, states
from ci.history.database import connect_writer
from ci.history.outbox import Item
from ci.history.schema import migrate, migrations_directory
from ci.history.target_statuses import target_context
from ci.models import BuildState, Cause, Commit, StatusState, Target

CONTEXT = "build-server"
REPO = "Bullish-Design/nix-terminal"
NOW = 1_800_000_000_000
FINALS = (StatusState.SUCCESS, StatusState.FAILURE, StatusState.ERROR)


@contextmanager
def memory() -> Iterator[sqlite3.Connection]:
    """A migrated history that is gone afterwards."""
    connection = connect_writer(Path(":memory:"))
    migrate(connection, migrations_directory())
    connection.execute(
        "INSERT INTO instances (id, boot_id, pid, pid_start, started_at) "
        "VALUES (1, 'boot', 1, 1, 0)"
    )
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def history() -> Iterator[sqlite3.Connection]:
    with memory() as connection:
        yield connection


def push(connection: sqlite3.Connection, count: int = 1, at: int = NOW) -> list[int]:
    """Enqueue `count` commits of one push; return the numbers, the head's last."""
    shas = [f"{at + index:040x}" for index in range(count)]
    commits = [Commit(sha, f"change {sha[-4:]}", "alice") for sha in shas]
    return queue.enqueue(
        connection,
        repositories.identify(connection, REPO),
        "dev",
        commits,
        cause=Cause.PUSH,
        head=shas[-1],
        at=at,
        context=CONTEXT,
    )


def claim(connection: sqlite3.Connection) -> int:
    claimed = queue.claim(connection, instance=1, at=NOW, context=CONTEXT)
    assert claimed is not None
    return claimed.number


def finish(
    connection: sqlite3.Connection,
    number: int,
    state: BuildState,
    targets: dict[str, BuildState] | None = None,
) -> None:
    states.finish(
        connection,
        number,
        state,
        summary="",
        targets=[Target(name, each) for name, each in (targets or {}).items()],
        at=NOW,
        seconds=1.0,
        context=CONTEXT,
    )


def deliver(connection: sqlite3.Connection, now: int = NOW) -> list[Item]:
    """Send all that may be sent, as a GitHub that takes everything."""
    taken = []
    while (item := outbox.begin(connection, now)) is not None:
        outbox.sent(connection, item.id, now)
        taken.append(item)
    return taken


def told(items: list[Item]) -> list[tuple[str, str]]:
    return [(item.context, str(item.state)) for item in items]


class Post(RuleBasedStateMachine):
    """Any interleaving of news, tries, lost replies, crashes and clock jumps.

    `queued_at` is a serial number here, so that GitHub's view can be compared with the
    order of the news. GitHub takes what was begun, or not; we hear of it, or not.
    """

    @initialize()
    def open(self) -> None:
        self.memory = memory()
        self.history = self.memory.__enter__()
        self.builds = push(self.history, 2)
        self.history.execute("DELETE FROM outbox")
        self.now = NOW
        self.serial = 0
        self.news: dict[tuple[int, str], list[Item]] = defaultdict(list)
        self.shown: dict[tuple[int, str], list[Item]] = defaultdict(list)
        self.buried: set[int] = set()
        self.flying: Item | None = None

    def teardown(self) -> None:
        if not hasattr(self, "history"):
            return
        self.flying = None
        while (item := outbox.begin(self.history, self.now + 10**8)) is not None:
            self.accept(item)
            outbox.sent(self.history, item.id, self.now)
        for key, news in self.news.items():
            wanted = [
                each.queued_at
                for each in news
                if each.queued_at not in self.buried
                and (each.state in FINALS or each is news[-1])
            ]
            seen = list(dict.fromkeys(each.queued_at for each in self.shown[key]))
            assert [stamp for stamp in seen if stamp in wanted] == wanted
            assert not wanted or seen[-1] >= wanted[-1]
        assert outbox.backlog(self.history) == 0
        self.memory.__exit__(None, None, None)

    def accept(self, item: Item) -> None:
        shown = self.shown[self.key(item.build, item.context)]
        assert not shown or shown[-1].queued_at <= item.queued_at, "GitHub went back"
        shown.append(item)

    @staticmethod
    def key(build: int, context: str) -> tuple[int, str]:
        return build, context.lower()

    @rule(
        which=st.integers(0, 1),
        context=st.sampled_from(["build-server", "Build-Server", "build-server/x"]),
        state=st.sampled_from(StatusState),
    )
    def something_happens(self, which: int, context: str, state: StatusState) -> None:
        self.serial += 1
        build = self.builds[which]
        outbox.queue(
            self.history,
            build=build,
            sha=f"{build:040x}",
            context=context,
            state=state,
            head=which == 1,
            at=self.serial,
        )
        row = self.history.execute("SELECT * FROM outbox ORDER BY id DESC").fetchone()
        fields = {name: row[name] for name in Item.__dataclass_fields__}
        item = Item(**fields | {"state": StatusState(row["state"])})
        self.news[self.key(build, context)].append(item)

    @precondition(lambda self: self.flying is None)
    @rule(urgent=st.booleans())
    def begin(self, urgent: bool) -> None:
        self.flying = outbox.begin(self.history, self.now, urgent=urgent)
        if self.flying is not None and self.flying.state is StatusState.PENDING:
            newest = self.news[self.key(self.flying.build, self.flying.context)][-1]
            assert newest.queued_at == self.flying.queued_at, "a superseded pending"
            assert self.flying.head or not urgent

    @precondition(lambda self: self.flying is not None)
    @rule(taken=st.booleans(), heard=st.booleans(), wait=st.integers(0, 5_000_000))
    def end(self, taken: bool, heard: bool, wait: int) -> None:
        assert self.flying is not None
        if taken:
            self.accept(self.flying)
        if taken and heard:
            outbox.sent(self.history, self.flying.id, self.now)
        else:
            outbox.failed(self.history, self.flying.id, "no answer", self.now + wait)
        self.flying = None

    @precondition(lambda self: self.flying is not None)
    @rule()
    def refuse(self) -> None:
        assert self.flying is not None
        outbox.dead(self.history, self.flying.id, "422")
        self.buried.add(self.flying.queued_at)
        self.flying = None

    @precondition(lambda self: self.flying is not None)
    @rule(taken=st.booleans())
    def crash(self, taken: bool) -> None:
        assert self.flying is not None
        if taken:
            self.accept(self.flying)
        self.flying = None

    @rule(by=st.integers(-10_000_000, 10_000_000))
    def the_clock_jumps(self, by: int) -> None:
        self.now += by

    @invariant()
    def a_shown_pending_is_known(self) -> None:
        for (build, context), shown in getattr(self, "shown", {}).items():
            if shown and shown[-1].state is StatusState.PENDING:
                assert outbox.pending_posted(self.history, build, context) or (
                    self.has_begun_later(build, context, shown[-1])
                )

    def has_begun_later(self, build: int, context: str, shown: Item) -> bool:
        """A try of something newer may have reached GitHub without our hearing of it."""
        row = self.history.execute(
            "SELECT 1 FROM outbox WHERE build = ? AND context = ? COLLATE NOCASE "
            "AND id > ? AND tries > 0",
            (build, context, shown.id),
        ).fetchone()
        return row is not None


TestPost = Post.TestCase
TestPost.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


OUTCOMES = st.sampled_from(
    [BuildState.SUCCEEDED, BuildState.FAILED, BuildState.ERROR, BuildState.CANCELLED]
)
ATTEMPTS = st.lists(
    st.dictionaries(st.sampled_from(["packages.a", "checks.b", "checks.c"]), OUTCOMES),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(attempts=ATTEMPTS, drained=st.lists(st.booleans(), min_size=5, max_size=5))
def test_github_ends_with_the_last_proof_of_each_target(
    attempts: list[dict[str, BuildState]], drained: list[bool]
) -> None:
    """Whatever attempts bring, and whether or not each was told before the next."""
    proofs: dict[str, str] = {}
    view: dict[str, str] = {}
    with memory() as history:
        (number,) = push(history)
        for targets, drain in zip(attempts, drained, strict=False):
            if claimed := queue.claim(history, instance=1, at=NOW, context=CONTEXT):
                assert claimed.number == number
            state = _verdict(targets)
            finish(history, number, state, targets)
            for name, each in targets.items():
                if each is BuildState.FAILED:
                    proofs[name] = "failure"
                elif each is BuildState.SUCCEEDED and name in proofs:
                    proofs[name] = "success"
            if state is BuildState.SUCCEEDED:
                proofs |= {name: "success" for name in proofs if name not in targets}
            if drain:
                view |= dict(told(deliver(history)))
            states.reopen(history, number, at=NOW, context=CONTEXT)
        view |= dict(told(deliver(history)))
    assert view.pop(CONTEXT) == "pending"
    assert view == {f"{CONTEXT}/{name}": state for name, state in proofs.items()}


def _verdict(targets: dict[str, BuildState]) -> BuildState:
    for state in (BuildState.FAILED, BuildState.ERROR, BuildState.CANCELLED):
        if state in targets.values():
            return state
    return BuildState.SUCCEEDED


def test_a_push_says_pending_for_its_head_at_once_and_later_for_the_rest(
    history: sqlite3.Connection,
) -> None:
    numbers = push(history, 3)
    (first,) = deliver(history)
    assert (first.build, first.state, first.head) == (numbers[-1], "pending", True)
    assert claim(history) == numbers[-1]
    assert deliver(history) == []
    older = claim(history)
    (second,) = deliver(history)
    assert (second.build, second.state, second.head) == (older, "pending", False)


def test_a_build_that_ends_before_github_heard_of_it_has_one_status(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    claim(history)
    finish(history, number, BuildState.SUCCEEDED)
    assert told(deliver(history)) == [(CONTEXT, "success")]


def test_an_ended_build_is_not_called_pending_by_a_repeated_push(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    claim(history)
    finish(history, number, BuildState.SUCCEEDED)
    deliver(history)
    assert push(history) == [number]
    assert deliver(history) == []


def _skip(history: sqlite3.Connection, number: int) -> None:
    states.end_queued(
        history, number, BuildState.SKIPPED, reason="gone", at=NOW, context=CONTEXT
    )


def _never_told(history: sqlite3.Connection) -> None:
    assert outbox.due(history, NOW) is not None


def _told(history: sqlite3.Connection) -> None:
    assert told(deliver(history)) == [(CONTEXT, "pending")]


def _perhaps_told(history: sqlite3.Connection) -> None:
    assert outbox.begin(history, NOW) is not None


def _told_and_lost(history: sqlite3.Connection) -> None:
    item = outbox.begin(history, NOW)
    assert item is not None
    outbox.failed(history, item.id, "no answer", NOW + 5000)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (_never_told, []),
        (_told, [(CONTEXT, "error")]),
        (_perhaps_told, [(CONTEXT, "error")]),
        (_told_and_lost, [(CONTEXT, "error")]),
    ],
)
def test_a_skipped_build_closes_what_github_may_show(
    history: sqlite3.Connection,
    before: Callable[[sqlite3.Connection], None],
    expected: list[tuple[str, str]],
) -> None:
    (number,) = push(history)
    before(history)
    _skip(history, number)
    assert told(deliver(history)) == expected
    assert outbox.backlog(history) == 0


def test_a_verdict_needs_an_ended_build(history: sqlite3.Connection) -> None:
    (number,) = push(history)
    with pytest.raises(HistoryError, match="queued"):
        outbox.queue_verdict(history, number, context=CONTEXT, at=NOW)
    with pytest.raises(HistoryError, match="no build #99"):
        outbox.queue_verdict(history, 99, context=CONTEXT, at=NOW)


def test_at_most_twenty_targets_get_a_context(history: sqlite3.Connection) -> None:
    (number,) = push(history)
    claim(history)
    targets = {f"checks.t{index:02}": BuildState.FAILED for index in range(25)}
    finish(history, number, BuildState.FAILED, targets)
    items = told(deliver(history))
    assert items[0] == (CONTEXT, "failure")
    assert items[1:] == [(f"{CONTEXT}/{name}", "failure") for name in targets][:20]


def test_a_narrower_rerun_proves_nothing_about_the_other_targets(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    claim(history)
    finish(history, number, BuildState.FAILED, {"checks.b": BuildState.FAILED})
    deliver(history)
    states.reopen(history, number, at=NOW, context=CONTEXT, targets=["packages.a"])
    claim(history)
    finish(history, number, BuildState.SUCCEEDED, {"packages.a": BuildState.SUCCEEDED})
    assert told(deliver(history)) == [(CONTEXT, "success")]


def test_two_repositories_with_the_same_commit_do_not_mix(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    fork = queue.enqueue(
        history,
        repositories.identify(history, "alice/fork"),
        "dev",
        [Commit(f"{NOW:040x}", "change", "alice")],
        cause=Cause.PUSH,
        head=f"{NOW:040x}",
        at=NOW,
        context=CONTEXT,
    )
    _skip(history, number)
    (item,) = deliver(history)
    assert [item.build] == fork


def _queue(history: sqlite3.Connection, build: int, **changes: Any) -> None:
    values: dict[str, Any] = {
        "sha": f"{build:040x}",
        "context": CONTEXT,
        "state": StatusState.SUCCESS,
        "head": False,
        "at": NOW,
    }
    outbox.queue(history, build=build, **(values | changes))


def test_verdicts_go_first_then_heads_then_age(history: sqlite3.Connection) -> None:
    a, b, c, d, e = push(history, 5)
    history.execute("DELETE FROM outbox")
    _queue(history, a, state=StatusState.PENDING)
    _queue(history, b, state=StatusState.PENDING, head=True)
    _queue(history, c, target="checks.x", context="build-server/checks.x", head=True)
    _queue(history, d)
    _queue(history, e, head=True)
    assert outbox.due(history, NOW, urgent=True) is not None
    assert [item.build for item in deliver(history)] == [e, d, c, b, a]


def test_only_verdicts_and_heads_are_urgent(history: sqlite3.Connection) -> None:
    (older, _) = push(history, 2)
    history.execute("DELETE FROM outbox")
    _queue(history, older, state=StatusState.PENDING)
    assert outbox.due(history, NOW, urgent=True) is None
    assert outbox.due(history, NOW) is not None


def test_a_wait_planned_by_a_wrong_clock_is_not_kept(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    item = outbox.begin(history, NOW)
    assert item is not None
    outbox.failed(history, item.id, "no answer", NOW + 3_600_000)
    assert outbox.due(history, NOW) is None
    assert outbox.next_due_at(history) == NOW + 3_600_000
    day = 24 * 3_600_000
    assert outbox.due(history, NOW - day) is not None
    outbox.hurry(history, NOW)
    assert told(deliver(history)) == [(CONTEXT, "pending")]
    assert item.build == number


def test_a_dead_letter_stays_until_something_later_is_taken(
    history: sqlite3.Connection,
) -> None:
    (number,) = push(history)
    item = outbox.begin(history, NOW)
    assert item is not None
    outbox.dead(history, item.id, "No commit found")
    (letter,) = outbox.dead_letters(history)
    assert (letter.build, letter.error) == (number, "No commit found")
    claim(history)
    finish(history, number, BuildState.FAILED)
    assert outbox.dead_letters(history) == [letter]
    deliver(history)
    assert outbox.dead_letters(history) == []


def test_the_budget_counts_the_last_hour_only(history: sqlite3.Connection) -> None:
    ages = (7_200_000, 3_600_000, 3_599_999, 60_000, 0, -5)
    for number in push(history, len(ages)):
        _queue(history, number)
    for age in ages:
        item = outbox.begin(history, NOW)
        assert item is not None
        outbox.sent(history, item.id, NOW - age)
    assert outbox.sent_since(history, NOW - 3_600_000, NOW) == 3


@given(st.text(), st.text())
def test_contexts_of_targets_fit_and_stay_apart(one: str, other: str) -> None:
    context = target_context(CONTEXT, one)
    assert len(context) <= 255
    assert context.isprintable()
    assert all(character <= "\uffff" for character in context)
    assert context == target_context(CONTEXT, one)
    assert (context == target_context(CONTEXT, other)) is (one == other)


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    long = "checks." + "x" * 300
    assert len(target_context(CONTEXT, long)) == 255
    assert target_context(CONTEXT, long) != target_context(CONTEXT, long + "y")


def test_no_question_reads_the_whole_outbox(history: sqlite3.Connection) -> None:
    """Rows stay for years; each question must go through an index."""
    (number,) = push(history)
    asked: list[str] = []
    history.set_trace_callback(asked.append)
    outbox.begin(history, NOW)
    outbox.next_due_at(history)
    outbox.backlog(history)
    outbox.hurry(history, NOW)
    outbox.sent_since(history, NOW - 1, NOW)
    outbox.dead_letters(history)
    outbox.pending_posted(history, number, CONTEXT)
    claim(history)
    finish(history, number, BuildState.FAILED, {"checks.b": BuildState.FAILED})
    history.set_trace_callback(None)
    statements = [each for each in asked if "outbox" in each]
    plans = [
        row["detail"]
        for statement in statements
        for row in history.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]
    scans = [plan for plan in plans if plan.startswith("SCAN") and "INDEX" not in plan]
    assert len(statements) > 8
    assert scans == []
