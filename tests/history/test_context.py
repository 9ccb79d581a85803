"""A build's neighbours: against a plain model, and in a history of a million builds."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from statistics import median

import pytest
from hypothesis import given, strategies as st

from ci.history import context, queue
from ci.models import BuildState
from tests.fakes.history import CONTEXT, enqueue, memory

FINISHED = st.sampled_from(sorted(BuildState))


def _fill(
    connection: sqlite3.Connection,
    states: list[BuildState],
    positions: list[int] | None = None,
    branch: str | None = "dev",
) -> None:
    """Builds 1, 2, … in those states; build n took n seconds and stands at its position."""
    connection.execute("INSERT INTO repositories (id, name) VALUES (1, 'owner/name')")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO builds (number, repository_id, sha, branch, title, author, state, "
        "cause, queued_at, seconds) VALUES (?, 1, printf('%040x', ?), ?, '', '', ?, "
        "'push', 0, ?)",
        [
            (number, number, branch, state, float(number))
            for number, state in enumerate(states, 1)
        ],
    )
    if branch is not None:
        connection.executemany(
            "INSERT INTO branch_commits (repository_id, branch, position, build) "
            "VALUES (1, ?, ?, ?)",
            [
                (branch, position, number)
                for number, position in enumerate(
                    positions or range(1, len(states) + 1), 1
                )
            ],
        )
    connection.execute("COMMIT")


@given(
    st.lists(FINISHED, min_size=1, max_size=40).flatmap(
        lambda states: st.tuples(
            st.just(states),
            st.permutations(range(1, len(states) + 1)),
            st.integers(1, len(states)),
        )
    )
)
def test_neighbours_are_those_of_the_branch_whatever_the_numbers(
    drawn: tuple[list[BuildState], list[int], int],
) -> None:
    states, positions, number = drawn
    connection = memory()
    _fill(connection, states, positions)
    found = context.around(connection, number)
    order = sorted(range(1, len(states) + 1), key=lambda n: positions[n - 1])
    here = order.index(number)
    below, above = order[:here], order[here + 1 :]
    good = [n for n in reversed(below) if states[n - 1] is BuildState.SUCCEEDED]
    assert (found.last_good.number if found.last_good else None) == next(
        iter(good), None
    )
    assert found.older == (below[-1] if below else None)
    assert found.newer == (above[0] if above else None)
    assert found.typical == (median(good[: context.GOOD]) if good else None)
    since = None
    if states[number - 1] is BuildState.FAILED:
        after = below[below.index(good[0]) + 1 :] if good else below
        bad = [n for n in after if states[n - 1] is BuildState.FAILED]
        since = [*bad, number][0]
    assert (found.broken_since.number if found.broken_since else None) == since
    connection.close()


def test_a_build_on_no_branch_has_no_neighbours() -> None:
    connection = memory()
    _fill(connection, [BuildState.SUCCEEDED, BuildState.FAILED], branch=None)
    assert context.around(connection, 2) == context.NOWHERE
    assert context.around(connection, 99) == context.NOWHERE
    assert context.nearest(connection, 3) == [2]
    assert context.nearest(connection, 0) == [1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["dev", "main", None]), st.integers(1, 4)),
        min_size=1,
        max_size=6,
    )
)
def test_the_place_in_the_queue_is_the_order_of_the_claims(
    pushes: list[tuple[str | None, int]],
) -> None:
    connection = memory()
    number = 0
    for branch, commits in pushes:
        enqueue(connection, *range(number + 1, number + commits + 1), branch=branch)
        number += commits
    places = {each: queue.place(connection, each, 5) for each in range(1, number + 1)}
    foretold = {place.before: each for each, place in places.items() if place}
    claimed = []
    while claim := queue.claim(connection, instance=1, at=5, context=CONTEXT):
        assert queue.place(connection, claim.number, 5) is None
        claimed.append(claim.number)
    assert claimed == [foretold[place] for place in range(number)]
    connection.close()


MILLION = 1_000_000


@pytest.fixture(scope="module")
def million() -> Iterator[sqlite3.Connection]:
    """Three repositories: good two times of three, good once long ago, never good."""
    connection = memory()
    connection.execute(
        "INSERT INTO repositories (id, name) VALUES (1, 'a/a'), (2, 'b/b'), (3, 'c/c')"
    )
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO builds (number, repository_id, sha, branch, title, author, state, "
        "cause, queued_at, seconds) SELECT i, 1 + i % 3, printf('%040x', i), 'dev', '', "
        "'', CASE WHEN i % 3 = 0 AND i / 3 % 3 OR i = 16 THEN 'succeeded' "
        "ELSE 'failed' END, 'push', 0, 60.0 FROM n",
        (MILLION,),
    )
    connection.execute(
        "INSERT INTO branch_commits (repository_id, branch, position, build) "
        "SELECT repository_id, 'dev', number, number FROM builds"
    )
    yield connection
    connection.close()


# The first of them makes the million.
@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "good", "since"),
    [(999_999, 999_996, 999_999), (1_000_000, 16, 19), (999_998, None, 5)],
)
def test_a_million_builds_are_no_reason_to_wait(
    million: sqlite3.Connection, number: int, good: int | None, since: int
) -> None:
    """The branch failed for very long, but for the good build named."""
    found, took = context.NOWHERE, []
    for _ in range(5):
        begun = time.thread_time()
        found = context.around(million, number)
        took.append(time.thread_time() - begun)
    assert min(took) < 0.005
    assert (found.last_good.number if found.last_good else None) == good
    assert found.broken_since is not None
    assert found.broken_since.number == since
