"""Every change of a build is news, in the same transaction, in order."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from ci.history import events, progress, queue, retention, states
from ci.history.events import Event
from ci.models import BuildState
from tests.fakes.history import CONTEXT, REPO, enqueue, memory

KEPT = 2000


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = memory()
    yield opened
    opened.close()


def claim(connection: sqlite3.Connection) -> None:
    assert queue.claim(connection, instance=1, at=5, context=CONTEXT)


def finish(connection: sqlite3.Connection) -> None:
    states.finish(
        connection,
        1,
        BuildState.FAILED,
        summary="it broke",
        targets=(),
        at=6,
        seconds=1.0,
        context=CONTEXT,
    )


def requeue(connection: sqlite3.Connection) -> None:
    states.requeue(
        connection,
        1,
        reason="the network is down",
        counted=False,
        not_before=0,
        at=6,
        seconds=1.0,
    )


def remove(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE outbox SET sent_at = 9")
    retention.remove_builds(connection, [1], [])


# Each step of a life, and the news that it must make.
LIFE: list[tuple[Callable[[sqlite3.Connection], object], list[tuple[str, str]]]] = [
    (lambda it: enqueue(it, 1), [("queued", "queued")]),
    (claim, [("state", "running"), ("progress", "running")]),
    (lambda it: progress.set_summary(it, 1, "1 of 2"), [("progress", "running")]),
    (requeue, [("state", "queued"), ("progress", "queued")]),
    (claim, [("state", "running"), ("progress", "running")]),
    (finish, [("state", "failed"), ("progress", "failed")]),
    (
        lambda it: states.reopen(it, 1, at=7, context=CONTEXT),
        [("state", "queued"), ("progress", "queued")],
    ),
    (
        lambda it: states.end_queued(
            it, 1, BuildState.CANCELLED, reason="Ada", at=8, context=CONTEXT
        ),
        [("state", "cancelled"), ("progress", "cancelled")],
    ),
    (remove, [("removed", "cancelled")]),
]


def test_every_change_of_a_build_is_told_once_and_in_its_own_transaction(
    connection: sqlite3.Connection,
) -> None:
    for change, wanted in LIFE:
        before = events.newest(connection)
        connection.execute("BEGIN")
        change(connection)
        connection.execute("ROLLBACK")
        assert events.newest(connection) == before
        connection.execute("BEGIN")
        change(connection)
        connection.execute("COMMIT")
        found = events.since(connection, before, 100)
        assert [(event.kind, event.state) for event in found] == wanted
        assert {(event.build, event.repo) for event in found} == {(1, REPO)}
        # No gap, even where something was rolled back: a gap would mean something lost.
        assert [event.id for event in found] == list(
            range(before + 1, before + 1 + len(found))
        )


def test_pieces_join_to_the_whole(connection: sqlite3.Connection) -> None:
    enqueue(connection, *range(1, 21))
    whole = events.since(connection, 0, 1000)
    assert [event.build for event in whole] == list(range(1, 21))
    pieces: list[Event] = []
    while piece := events.since(connection, len(pieces), 7):
        assert len(piece) <= 7
        pieces += piece
    assert pieces == whole
    look = events.look(connection, 15, 1000)
    assert (look.events, look.queued) == (whole[15:], 20)


def test_only_the_newest_are_kept_and_who_missed_more_is_found_out(
    connection: sqlite3.Connection,
) -> None:
    assert (events.oldest(connection), events.newest(connection)) == (0, 0)
    assert events.can_follow(connection, 0)
    assert not events.can_follow(connection, 1)
    enqueue(connection, 1)
    claim(connection)
    for number in range(3 * KEPT):
        progress.set_summary(connection, 1, f"{number} of many")
    oldest, newest = events.oldest(connection), events.newest(connection)
    assert newest == 3 * KEPT + 3
    assert KEPT <= newest - oldest < KEPT + 200
    assert not events.can_follow(connection, oldest - 2)
    assert events.can_follow(connection, oldest - 1)
    assert len(events.since(connection, oldest - 1, 10_000)) == newest - oldest + 1
    assert events.can_follow(connection, newest)
    assert not events.can_follow(connection, newest + 1)
