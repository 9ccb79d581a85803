"""Builds with fresh inputs: when they were asked for last, and those that were made."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from ci.history import queue, states
from ci.models import BuildState, Cause, Commit


@dataclass(frozen=True)
class Asked:
    """When a repository's inputs were asked for last (milliseconds), and how it went.

    `failures` counts tries in a row that failed, `error` says why the last one did.
    """

    at: int
    failures: int = 0
    error: str = ""


def asked(connection: sqlite3.Connection) -> dict[int, Asked]:
    """By repository id; those that were never asked for are not there."""
    rows = connection.execute("SELECT * FROM updates")
    return {
        row["repository_id"]: Asked(row["asked_at"], row["failures"], row["error"])
        for row in rows
    }


def remember(connection: sqlite3.Connection, repository: int, last: Asked) -> None:
    """How the last try went; after a restart it is not made again before its time."""
    connection.execute(
        "INSERT INTO updates (repository_id, asked_at, failures, error) "
        "VALUES (?, ?, ?, ?) ON CONFLICT (repository_id) DO UPDATE SET "
        "asked_at = excluded.asked_at, failures = excluded.failures, "
        "error = excluded.error",
        (repository, last.at, last.failures, last.error),
    )


def enqueue(
    connection: sqlite3.Connection,
    repository: int,
    commit: Commit,
    *,
    at: int,
    context: str,
) -> int | None:
    """Give a commit of our own its build, on no branch; None when it had one already.

    Another one that still waits is cancelled.
    """
    had = queue.numbers(connection, repository, [commit.sha])
    (number,) = queue.enqueue(
        connection,
        repository,
        None,
        [commit],
        cause=Cause.UPDATE,
        head="",
        at=at,
        context=context,
    )
    waiting = connection.execute(
        "SELECT number FROM builds WHERE repository_id = ? AND cause = 'update' "
        "AND state = 'queued' AND number <> ?",
        (repository, number),
    ).fetchall()
    for row in waiting:
        states.end_queued(
            connection,
            row["number"],
            BuildState.CANCELLED,
            reason=f"cancelled by newer inputs: superseded by #{number}",
            at=at,
            context=context,
        )
    return None if had else number


def commits(connection: sqlite3.Connection, repository: int) -> Collection[str]:
    """The commits of our own that have a build."""
    rows = connection.execute(
        "SELECT sha FROM builds WHERE repository_id = ? AND cause = 'update'",
        (repository,),
    )
    return {row["sha"] for row in rows}
