"""What the scheduler writes, one transaction each: progress, the end, the way back."""

from __future__ import annotations

import sqlite3

from ci.build.job import Progress
from ci.build.verdict import Ended
from ci.history import progress as progress_rows, states
from ci.history.queue import Claimed


def write_progress(
    connection: sqlite3.Connection, claimed: Claimed, progress: Progress
) -> None:
    progress_rows.set_summary(connection, claimed.number, progress.summary)
    if progress.targets:
        progress_rows.set_targets(connection, claimed.number, progress.targets)
    _write_times(connection, claimed, progress)


def _write_times(
    connection: sqlite3.Connection, claimed: Claimed, progress: Progress
) -> None:
    """Where the time of the attempt went until now."""
    number, attempt = claimed.number, claimed.attempt
    progress_rows.record_attempt(
        connection,
        number,
        attempt,
        steps=progress.steps,
        built=progress.built,
        substituted=progress.substituted,
        store_used=progress.store_used,
    )
    rows = [
        progress_rows.Row(
            path,
            machine,
            begun,
            ended,
            needs=progress.needs.get(path, ()),
            failed=path in progress.broken,
        )
        for (path, machine), (begun, ended) in progress.derivations.items()
    ]
    progress_rows.record_derivations(connection, number, attempt, rows)


def finish(
    connection: sqlite3.Connection,
    claimed: Claimed,
    progress: Progress,
    ended: Ended,
    at: int,
    seconds: float,
    context: str,
) -> None:
    _write_times(connection, claimed, progress)
    states.finish(
        connection,
        claimed.number,
        ended.state,
        summary=ended.summary,
        targets=ended.targets,
        at=at,
        seconds=seconds,
        context=context,
    )


def requeue(
    connection: sqlite3.Connection,
    claimed: Claimed,
    progress: Progress,
    ended: Ended,
    *,
    not_before: int,
    at: int,
    seconds: float,
) -> None:
    _write_times(connection, claimed, progress)
    retry = ended.retry
    states.requeue(
        connection,
        claimed.number,
        reason=ended.summary,
        counted=retry is not None and retry.counted,
        waited=retry is not None and retry.waited,
        not_before=not_before,
        at=at,
        seconds=seconds,
    )
