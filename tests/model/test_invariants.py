"""The checker itself: a sound history has no fault, and each kind of fault is seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ci.history import outbox, queue, states
from ci.history.paths import database_path
from ci.models import BuildState, Target
from tests.fakes.github import Status
from tests.fakes.history import CONTEXT, REPO, memory, push, sha
from tests.fakes.invariants import broken

GUID = "guid-1"
FAILING = f"{CONTEXT}/checks.web"


@pytest.fixture
def history() -> Iterator[sqlite3.Connection]:
    """One push of one commit, built once, failed, and all of it told to GitHub."""
    with closing(memory()) as connection:
        push(connection, 0, 1, guid=GUID)
        claimed = queue.claim(connection, instance=1, at=10, context=CONTEXT)
        assert claimed is not None
        states.finish(
            connection,
            claimed.number,
            BuildState.FAILED,
            summary="1 of 1 failed",
            targets=[Target("checks.web", BuildState.FAILED, 1.0, "no")],
            at=20,
            seconds=0.01,
            context=CONTEXT,
        )
        while item := outbox.begin(connection, 30):
            outbox.sent(connection, item.id, 30)
        yield connection


def shown(context: str, state: str) -> Status:
    return Status(REPO, sha(1), state, context, "", None, 0.0)


TAKEN = [
    shown(CONTEXT, "pending"),
    shown(FAILING, "failure"),
    shown(CONTEXT, "failure"),
]


def found(
    connection: sqlite3.Connection,
    folder: Path,
    taken: list[Status],
    acknowledged: set[str],
) -> str:
    with closing(sqlite3.connect(database_path(folder))) as file:
        connection.backup(file)
    return "\n".join(broken(folder, taken, acknowledged))


def test_a_sound_history_has_no_fault(
    history: sqlite3.Connection, tmp_path: Path
) -> None:
    assert found(history, tmp_path, TAKEN, {GUID}) == ""


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE deliveries SET guid = 'x'", "was acknowledged and is not in the"),
        ("UPDATE deliveries SET accepted = 0", "neither a build nor a reason"),
        ("UPDATE deliveries SET after_sha = 'b'", "neither a build nor a reason"),
        ("UPDATE builds SET state = 'queued'", "has not ended"),
        ("UPDATE builds SET finished_at = NULL", "no time of its end"),
        ("UPDATE builds SET summary = ''", "does not say why"),
        ("UPDATE builds SET attempt = 2", "began 2 attempts, recorded: 1"),
        ("UPDATE attempts SET number = 3", "began 1 attempts, recorded: 1"),
        ("UPDATE attempts SET finished_at = NULL", "with 1 attempts unfinished"),
        ("UPDATE attempts SET outcome = 'error'", "which no attempt says"),
        (
            "INSERT INTO attempts (build, number, instance_id, started_at, "
            "finished_at, outcome) SELECT build, 2, 1, 15, 18, outcome "
            "FROM attempts; UPDATE builds SET attempt = 2",
            "attempt 2 began before the last ended",
        ),
        ("UPDATE build_counts SET n = 7 WHERE state = 'failed'", "7 builds counted as"),
        (
            "INSERT INTO requests (kind, asked_at, asked_by) VALUES ('retry', 1, 'a')",
            "was not answered",
        ),
        ("UPDATE outbox SET sent_at = NULL", "was not sent"),
        ("UPDATE builds SET state = 'succeeded'", "GitHub shows failure, not success"),
        (
            "PRAGMA foreign_keys = OFF; UPDATE builds SET delivery_id = 99",
            "a row of builds refers to nothing in deliveries",
        ),
    ],
)
def test_damage_is_seen(
    history: sqlite3.Connection, tmp_path: Path, damage: str, said: str
) -> None:
    history.executescript(damage)
    assert said in found(history, tmp_path, TAKEN, {GUID})


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ([], "GitHub shows None, not failure"),
        (TAKEN[:2], "GitHub shows pending, not failure"),
        ([*TAKEN, TAKEN[0]], "GitHub shows pending, not failure"),
        ([TAKEN[0], TAKEN[2]], f"{FAILING} of build #1 is failure only in our rows"),
    ],
)
def test_what_github_shows_is_compared(
    history: sqlite3.Connection, tmp_path: Path, taken: list[Status], said: str
) -> None:
    assert said in found(history, tmp_path, taken, {GUID})


def test_a_dead_letter_excuses_what_github_shows(
    history: sqlite3.Connection, tmp_path: Path
) -> None:
    history.execute("UPDATE outbox SET dead = 1, error = '422' WHERE state = 'failure'")
    assert found(history, tmp_path, TAKEN[:1], {GUID}) == ""
