"""Waiting builds that nobody needs any more: how they end, and in which words."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from ci.history import branches, queue, states
from ci.models import BuildState


def pushed_away(branch: str, head: str) -> str:
    """Why a commit is skipped that a force push took off its branch."""
    return f"no longer on {branch} after the force push to {head[:7]}"


def skip(
    connection: sqlite3.Connection,
    numbers: Collection[int],
    reason: str,
    *,
    at: int,
    context: str,
) -> None:
    """Skip those of the builds that still wait."""
    for number in numbers:
        if queue.waits(connection, number):
            states.end_queued(
                connection,
                number,
                BuildState.SKIPPED,
                reason=reason,
                at=at,
                context=context,
            )


def supersede(
    connection: sqlite3.Connection,
    repository: int,
    branch: str,
    *,
    at: int,
    context: str,
) -> None:
    """Cancel what waits on the branch below its newest waiting build."""
    waiting = [number for number, _ in branches.queued(connection, repository, branch)]
    for number in waiting[1:]:
        states.end_queued(
            connection,
            number,
            BuildState.CANCELLED,
            reason=f"cancelled by a newer head: superseded by #{waiting[0]}",
            at=at,
            context=context,
        )


def branch_deleted(
    connection: sqlite3.Connection,
    repository: int,
    branch: str,
    *,
    at: int,
    context: str,
) -> None:
    """Skip what waits on a branch that is gone, and on no other."""
    skip(
        connection,
        [number for number, _ in branches.only_on(connection, repository, branch)],
        f"branch {branch} was deleted",
        at=at,
        context=context,
    )
