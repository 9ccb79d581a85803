"""The ledger of deliveries that never came."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import pairwise

import pytest

from ci.history import missed, repositories
from ci.history.missed import ASK_AGAIN, ASK_SOON, HOUR, LATE, RECENT, WINDOW, Tally
from tests.fakes.history import REPO, memory, push

NOW = 100 * WINDOW


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = memory()
    yield opened
    opened.close()


def record(connection: sqlite3.Connection, *guids: str, at: int = NOW) -> list[str]:
    here = repositories.identify(connection, REPO)
    failed = [(guid, NOW - HOUR) for guid in guids]
    return missed.record(connection, here, "1", failed, at=at)


def test_what_is_in_the_history_was_not_missed(connection: sqlite3.Connection) -> None:
    push(connection, 1, 2, guid="came")
    assert record(connection, "came", "lost") == ["lost"]
    assert missed.tally(connection, NOW).missed == 1


def test_each_is_asked_for_once_and_again_less_and_less_often(
    connection: sqlite3.Connection,
) -> None:
    """GitHub tries at once: what failed because Funnel was not up yet must not wait long."""
    assert record(connection, "a", "b") == ["a", "b"]
    missed.asked(connection, "1", "a", at=NOW)
    assert record(connection, "a", "b") == ["b"]
    missed.asked(connection, "1", "b", at=NOW)
    asked = [NOW]
    for at in range(NOW, NOW + WINDOW - HOUR, 60_000):
        if record(connection, at=at):
            assert record(connection, at=at) == ["a", "b"]
            missed.asked(connection, "1", "a", at=at)
            missed.asked(connection, "1", "b", at=at)
            asked.append(at)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= ASK_SOON + 60_000
    assert pauses[-1] <= ASK_AGAIN + 60_000
    # Several before anybody is alarmed, and few in all.
    assert sum(at - NOW < LATE for at in asked) >= 4
    assert len(asked) < 24
    # GitHub has it no more.
    assert record(connection, at=NOW + WINDOW) == []


def test_a_clock_that_was_put_back_keeps_nothing_from_being_asked_for(
    connection: sqlite3.Connection,
) -> None:
    record(connection, "a")
    missed.asked(connection, "1", "a", at=NOW + 17 * HOUR)
    assert record(connection, at=NOW + HOUR) == ["a"]


def test_the_numbers_tell_what_came_and_what_is_late(
    connection: sqlite3.Connection,
) -> None:
    record(connection, "a", "b")
    assert missed.tally(connection, NOW) == Tally(2, 0, 2, 0, 2, 0)
    later = NOW + LATE + 1
    assert missed.tally(connection, later).late == 2
    push(connection, 1, 2, guid="a")
    missed.recover(connection)
    assert missed.tally(connection, later) == Tally(2, 1, 2, 1, 1, 1)
    # What cannot come any more is no alarm for ever.
    much_later = NOW + RECENT
    assert missed.tally(connection, much_later) == Tally(2, 1, 0, 0, 0, 0)


def test_webhooks_are_known_by_what_they_told(connection: sqlite3.Connection) -> None:
    push(connection, 1, 2, guid="a")
    here = repositories.identify(connection, REPO)
    assert missed.hooks(connection, here, 0) == ["1"]
    assert missed.hooks(connection, here, 1) == []
