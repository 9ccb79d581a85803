"""How branches stand, against the same told by a plain loop over the whole branch."""

from __future__ import annotations

import sqlite3
from statistics import median

from hypothesis import given, strategies as st

from ci.history import branches, builds, finished, repositories
from ci.history.branch_states import (
    GOOD,
    LOOKED,
    TREND,
    VERDICTS,
    branch_state,
    branches_seen,
    in_order,
)
from ci.models import BuildState
from tests.fakes.history import REPO, enqueue, memory

S = BuildState
STATES = st.lists(st.sampled_from(list(BuildState)), max_size=60)


def _history(states: list[BuildState]) -> sqlite3.Connection:
    """Builds 1.. in these states, each a newer commit than the one before."""
    connection = memory()
    for number, state in enumerate(states, 1):
        enqueue(connection, number)
        ended = number * 1000 if state.final else None
        connection.execute(
            "UPDATE builds SET state = ?, finished_at = ?, seconds = ? WHERE number = ?",
            (state, ended, number if ended else None, number),
        )
    return connection


@given(STATES)
def test_a_branch_stands_as_its_commits_say(states: list[BuildState]) -> None:
    found = branch_state(_history(states), REPO, "dev")
    ended = [
        (number, state)
        for number, state in enumerate(states, 1)
        if state.final and state is not S.SKIPPED
    ]
    assert [(one.number, one.state) for one in found.trend] == ended[-TREND:]
    assert (found.last.number if found.last else None) == (
        ended[-1][0] if ended else None
    )
    good = [number for number, state in ended if state is S.SUCCEEDED]
    failed = [number for number, state in ended if state is S.FAILED]
    after = [number for number in failed if number > max(good, default=0)]
    assert (found.broken_since.number if found.broken_since else None) == (
        after[0] if after else None
    )
    assert (found.last_good.number if found.last_good else None) == (
        good[-1] if after and good else None
    )
    assert found.typical == (median(good[-GOOD:]) if good else None)
    rated = [s for _, s in ended[-TREND:] if s is not S.CANCELLED]
    assert found.pass_rate == (rated.count(S.SUCCEEDED) / len(rated) if rated else None)


@given(STATES)
def test_turns_are_where_the_verdict_changes(states: list[BuildState]) -> None:
    connection = _history(states)
    was, turns = S.SUCCEEDED, []
    for number, state in enumerate(states, 1):
        if state in VERDICTS and state is not was:
            turns.append(number)
            was = state
    found = finished.turned(connection, [(REPO, "dev")], limit=100)
    assert [build.number for build in found] == turns[::-1]
    mended = finished.turned(connection, [(REPO, "dev")], state=S.SUCCEEDED, limit=100)
    assert [build.number for build in mended] == [
        number for number in turns[::-1] if states[number - 1] is S.SUCCEEDED
    ]


def test_a_commit_on_two_branches_counts_on_both() -> None:
    connection = _history([S.SUCCEEDED, S.FAILED, S.FAILED])
    repository = repositories.identify(connection, REPO)
    # `main` goes forward to what `dev` has had.
    branches.place(connection, repository, "main", [2, 3])
    dev, main = (branch_state(connection, REPO, name) for name in ("dev", "main"))
    assert dev.last_good is not None
    assert dev.last_good.number == 1
    assert (main.broken_since, main.last_good) == (dev.broken_since, None)
    assert branches_seen(connection, REPO) == ["dev", "main"]
    assert branches_seen(connection, "nobody/knows") == []


def test_a_branch_that_was_not_good_for_long_says_that_it_was_not_looked_further() -> (
    None
):
    connection = _history([S.SUCCEEDED])
    enqueue(connection, *range(2, LOOKED + 3))
    connection.execute(
        "UPDATE builds SET state = 'failed', finished_at = number WHERE number > 1"
    )
    found = branch_state(connection, REPO, "dev")
    assert found.longer
    assert found.last_good is None
    assert found.broken_since is not None
    assert found.broken_since.number == 3


@given(
    STATES,
    st.sampled_from([None, *BuildState]),
    st.sampled_from([None, "dev", "main"]),
    st.sampled_from(["1", "it 2", "%", "_", "\\", "COMMIT", "0003", ""]),
    st.integers(1, 7),
    st.integers(1, 9),
)
def test_search_pages_are_complete_and_hold_nothing_twice(
    states: list[BuildState],
    state: BuildState | None,
    branch: str | None,
    words: str,
    limit: int,
    most: int,
) -> None:
    connection = _history(states)
    connection.execute(
        "UPDATE builds SET title = title || ' 100%_\\' WHERE number % 5 = 0"
    )
    whole = builds.page(connection, branch=branch, state=state, limit=1000)
    wanted = [
        build.number
        for build in whole
        if any(words.lower() in text.lower() for text in (build.title, build.sha, "A"))
    ]
    seen: list[int] = []
    before = None
    while True:
        above = before or len(states) + 1
        found, before, lowest = builds.search(
            connection,
            words,
            branch=branch,
            state=state,
            before=before,
            limit=limit,
            most=most,
        )
        assert len(found) <= limit
        assert above - lowest <= most
        seen += [build.number for build in found]
        if before is None:
            break
    assert seen == wanted


@given(STATES, st.sampled_from([None, *BuildState]))
def test_what_has_ended_comes_newest_first(
    states: list[BuildState], state: BuildState | None
) -> None:
    connection = _history(states)
    for scope in ({}, {"repo": REPO}, {"repo": REPO, "branch": "dev"}):
        found = finished.finished(connection, state=state, limit=100, **scope)
        assert [build.number for build in found] == [
            number
            for number, each in reversed(list(enumerate(states, 1)))
            if each.final and (each is state if state else each is not S.SKIPPED)
        ]


def test_the_order_of_a_few_builds_is_found_without_the_rest_of_the_branch() -> None:
    connection = _history([S.SUCCEEDED] * 300)
    enqueue(connection, 999, branch="main")
    found = builds.page(connection, limit=20)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    ordered = in_order(connection, REPO, "dev", found)
    connection.set_trace_callback(None)
    # That of main is not on the branch.
    assert [build.number for build in ordered] == list(range(300, 281, -1))
    (sql,) = asked
    plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any("build=?" in step for step in plan), plan
    connection.execute("UPDATE branch_commits SET position = -position")
    turned = in_order(connection, REPO, "dev", found)
    assert turned == ordered[::-1]
