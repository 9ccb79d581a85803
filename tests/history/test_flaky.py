"""What is flaky: the same derivation, or the same commit, with both ends."""

from __future__ import annotations

import sqlite3

import pytest

from ci.history import flaky, progress, trends
from ci.history.flaky import MOST, Flake
from ci.models import BuildState, Target
from tests.fakes.history import enqueue, memory

GOOD, BAD = BuildState.SUCCEEDED, BuildState.FAILED


@pytest.fixture
def connection() -> sqlite3.Connection:
    return memory()


def built(
    connection: sqlite3.Connection, commit: int, *targets: tuple[str, BuildState, str]
) -> int:
    """A build with these targets: name, state, derivation."""
    (number,) = enqueue(connection, commit)
    state = BAD if any(state is BAD for _, state, _ in targets) else GOOD
    connection.execute("UPDATE builds SET state = ? WHERE number = ?", (state, number))
    progress.set_targets(
        connection,
        number,
        [Target(name, how, derivation=what or None) for name, how, what in targets],
    )
    return number


def attempt(
    connection: sqlite3.Connection, build: int, number: int, outcome: str
) -> None:
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at, outcome) "
        "VALUES (?, ?, 1, 1, ?)",
        (build, number, outcome),
    )


def found(connection: sqlite3.Connection) -> list[Flake]:
    return flaky.flakes(connection, trends.window(connection))


def test_one_derivation_that_ended_both_ways(connection: sqlite3.Connection) -> None:
    bad = built(connection, 1, ("a", BAD, "/a1"), ("b", BAD, "/b1"), ("c", BAD, ""))
    assert found(connection) == []
    built(connection, 2, ("a", GOOD, "/a2"), ("b", BAD, "/b1"), ("c", GOOD, ""))
    assert found(connection) == []
    good = built(connection, 3, ("a", GOOD, "/a1"), ("b", GOOD, "/b2"))
    assert found(connection) == [Flake("a", bad, good)]


def test_what_was_our_own_fault_is_not_flaky(connection: sqlite3.Connection) -> None:
    built(connection, 1, ("a", BuildState.ERROR, "/a1"))
    one = built(connection, 2, ("a", GOOD, "/a1"))
    attempt(connection, one, 1, "error")
    attempt(connection, one, 2, "succeeded")
    assert found(connection) == []


def test_a_commit_that_was_tried_again(connection: sqlite3.Connection) -> None:
    one = built(connection, 1, ("a", GOOD, "/a1"))
    attempt(connection, one, 1, "failed")
    attempt(connection, one, 2, "succeeded")
    other = built(connection, 2, ("a", BAD, "/a2"))
    attempt(connection, other, 1, "failed")
    attempt(connection, other, 2, "failed")
    assert found(connection) == [Flake(None, one, one)]


def test_the_newest_come_first_and_no_more_than_so_many(
    connection: sqlite3.Connection,
) -> None:
    last = 0
    for commit in range(MOST + 3):
        last = built(connection, commit, ("a", GOOD, f"/{commit}"))
        attempt(connection, last, 1, "failed")
        attempt(connection, last, 2, "succeeded")
    told = found(connection)
    assert len(told) == MOST
    assert told[0] == Flake(None, last, last)
