"""The states of a build: every change of `builds.state` is made here.

Each is checked against the table in models.py, and the statuses that follow from it are
queued in the same transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from ci.errors import HistoryError
from ci.history import outbox, progress
from ci.models import BuildState, Outcome, Target, check_transition

DEATHS = 5


def become(connection: sqlite3.Connection, number: int, new: BuildState) -> None:
    """Change the state alone; raises ForbiddenTransition, HistoryError if unknown."""
    row = connection.execute(
        "SELECT state FROM builds WHERE number = ?", (number,)
    ).fetchone()
    if row is None:
        raise HistoryError(f"there is no build #{number}")
    check_transition(BuildState(row["state"]), new)
    connection.execute("UPDATE builds SET state = ? WHERE number = ?", (new, number))


def finish(
    connection: sqlite3.Connection,
    number: int,
    state: BuildState,
    *,
    summary: str,
    targets: Sequence[Target],
    at: int,
    seconds: float,
    context: str,
) -> None:
    """End a running build: its state, targets, attempt and statuses in one transaction."""
    become(connection, number, state)
    connection.execute(
        "UPDATE builds SET finished_at = ?, seconds = ?, summary = ? WHERE number = ?",
        (at, seconds, summary, number),
    )
    progress.set_targets(connection, number, targets)
    _end_attempt(connection, number, Outcome(state), summary, at, seconds)
    outbox.queue_verdict(connection, number, context=context, at=at)


def end_queued(
    connection: sqlite3.Connection,
    number: int,
    state: BuildState,
    *,
    reason: str,
    at: int,
    context: str,
) -> None:
    """End a build that never ran: cancelled or skipped, with its reason."""
    become(connection, number, state)
    connection.execute(
        "UPDATE builds SET finished_at = ?, summary = ? WHERE number = ?",
        (at, reason, number),
    )
    outbox.queue_verdict(connection, number, context=context, at=at)


def requeue(
    connection: sqlite3.Connection,
    number: int,
    *,
    reason: str,
    counted: bool,
    not_before: int,
    at: int,
    seconds: float,
    waited: bool = False,
) -> None:
    """Put a running build back: an interruption is free, a fault of ours is counted.

    One that `waited` in vain is free, too, but not for ever: see history/waiting.py.
    """
    become(connection, number, BuildState.QUEUED)
    connection.execute(
        "UPDATE builds SET counted = counted + ?, not_before = ?, summary = ?, "
        "started_at = NULL WHERE number = ?",
        (int(counted), not_before, reason, number),
    )
    outcome = Outcome.ERROR if counted else Outcome.INTERRUPTED
    if waited:
        outcome = Outcome.WAITED
    _end_attempt(connection, number, outcome, reason, at, seconds)


def reopen(
    connection: sqlite3.Connection,
    number: int,
    *,
    at: int,
    context: str,
    targets: Sequence[str] = (),
) -> None:
    """Queue an ended build again, as wanted as a head: same number, new attempts."""
    become(connection, number, BuildState.QUEUED)
    connection.execute(
        "UPDATE builds SET head = 1, counted = 0, deaths = 0, not_before = 0, "
        "queued_at = ?, started_at = NULL, finished_at = NULL, seconds = NULL, "
        "summary = '', requested_targets = ? WHERE number = ?",
        (at, json.dumps(list(targets)), number),
    )
    outbox.queue_pending(connection, number, context=context, at=at)


def recover(
    connection: sqlite3.Connection, *, at: int, context: str, died: bool
) -> list[int]:
    """Put back whatever is `running` though nobody runs it; return the numbers.

    The caller holds the instance lock and runs nothing. With `died` the rows are what a
    dead server left: a build that a server did not survive DEATHS times ends as `error`,
    for it may be what kills us.
    """
    rows = connection.execute(
        "SELECT number, deaths, started_at FROM builds WHERE state = 'running'"
    ).fetchall()
    for row in rows:
        number, deaths = int(row["number"]), int(row["deaths"]) + int(died)
        connection.execute(
            "UPDATE builds SET deaths = ? WHERE number = ?", (deaths, number)
        )
        seconds = max(0, at - int(row["started_at"])) / 1000
        if deaths >= DEATHS:
            finish(
                connection,
                number,
                BuildState.ERROR,
                summary=f"the server itself died {deaths} times during this build",
                targets=(),
                at=at,
                seconds=seconds,
                context=context,
            )
            continue
        requeue(
            connection,
            number,
            reason="the server died during it" if died else "the server stopped",
            counted=False,
            not_before=0,
            at=at,
            seconds=seconds,
        )
    return [int(row["number"]) for row in rows]


def _end_attempt(
    connection: sqlite3.Connection,
    number: int,
    outcome: Outcome,
    reason: str,
    at: int,
    seconds: float,
) -> None:
    connection.execute(
        "UPDATE attempts SET finished_at = ?, seconds = ?, outcome = ?, reason = ? "
        "WHERE build = ? AND finished_at IS NULL",
        (at, seconds, outcome, reason, number),
    )
