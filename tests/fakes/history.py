"""Short ways to a history for tests that are about something else."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from ci.history import deliveries, queue, repositories
from ci.history.deliveries import Arrival, Plan, Receipt
from ci.history.schema import migrate, migrations_directory
from ci.models import Cause, Commit

REPO = "owner/name"
CONTEXT = "build-server"


class _ClosedInTheEnd(sqlite3.Connection):
    """A history that a test lets go is closed; Python 3.13 warns of any that is not."""

    def __del__(self) -> None:
        self.close()


def memory() -> sqlite3.Connection:
    """A migrated history in memory; every statement commits by itself."""
    connection = sqlite3.connect(
        ":memory:",
        isolation_level=None,
        # Whichever thread collects garbage closes it.
        check_same_thread=False,
        factory=_ClosedInTheEnd,
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    migrate(connection, migrations_directory())
    connection.execute(
        "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
        "VALUES ('boot', 1, 1, 0)"
    )
    return connection


def sha(number: int) -> str:
    """A full SHA that begins with the number, easy to read in a failure."""
    return f"{number:04d}".ljust(40, "a")


def commit(number: int) -> Commit:
    return Commit(sha=sha(number), title=f"commit {number}", author="A")


def enqueue(
    connection: sqlite3.Connection, *numbers: int, branch: str | None = "dev"
) -> list[int]:
    """Builds for the numbered commits, oldest first; the last is the head."""
    return queue.enqueue(
        connection,
        repositories.identify(connection, REPO),
        branch,
        [commit(number) for number in numbers],
        cause=Cause.PUSH,
        head=sha(numbers[-1]),
        at=1,
        context=CONTEXT,
    )


def push(
    connection: sqlite3.Connection,
    before: int,
    *numbers: int,
    guid: str = "",
    policy: str = "every",
    reasons: Mapping[str, str] | None = None,
    forced: bool = False,
) -> Receipt:
    """Accept a push of the numbered commits on top of `before`."""
    plan = Plan(
        repo=REPO,
        github_id=7,
        github_name=REPO,
        branch="dev",
        commits=tuple(commit(number) for number in numbers),
        reasons=dict(reasons or {}),
        head=sha(numbers[-1]),
        policy=policy,
        context=CONTEXT,
    )
    arrival = Arrival(
        hook_id="1",
        guid=guid or f"{before}-{numbers}",
        event="push",
        received_at=1,
        body_sha256="",
        ref="refs/heads/dev",
        before=sha(before),
        after=sha(numbers[-1]),
        forced=forced,
        plan=plan,
        reason="",
        repo=REPO,
    )
    return deliveries.accept(connection, [arrival])[0]
