"""The attempts of a build: what each did, and how it ended."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

LAST = 20
"""Attempts that a page lists; one that waits for its remote can have had thousands."""

_SELECT = (
    "SELECT number, started_at, finished_at, seconds, outcome, reason, log_removed, "
    "steps, built, substituted, store_used FROM attempts WHERE build = ? "
)


@dataclass(frozen=True)
class Attempt:
    """One try of a build; moments in milliseconds since the epoch.

    `steps` are (name, began at), in order; each ends with the next, the last with the
    attempt. `log_removed` says when and why its log has gone, where that was by us.
    `built`, `substituted` and `store_used` are None where nobody counted.
    """

    number: int
    started_at: int
    finished_at: int | None
    seconds: float | None
    outcome: str | None
    reason: str
    log_removed: str | None
    steps: tuple[tuple[str, int], ...]
    built: int | None
    substituted: int | None
    store_used: int | None

    def step_seconds(self, now: int) -> list[tuple[str, float]]:
        """(name, seconds) of its steps, until `now` while it runs.

        One that came twice, such as an evaluation that was repeated, is there twice.
        """
        end = now if self.finished_at is None else self.finished_at
        ends = [*(at for _, at in self.steps), end][1:]
        return [
            (name, max(0, following - at) / 1000)
            for (name, at), following in zip(self.steps, ends, strict=True)
        ]


def last(connection: sqlite3.Connection, build: int) -> list[Attempt]:
    """The last attempts of a build, the newest first, at most LAST."""
    rows = connection.execute(_SELECT + "ORDER BY number DESC LIMIT ?", (build, LAST))
    return [_attempt(row) for row in rows]


def one(connection: sqlite3.Connection, build: int, number: int) -> Attempt | None:
    """One attempt of a build by its number, or None."""
    row = connection.execute(_SELECT + "AND number = ?", (build, number)).fetchone()
    return None if row is None else _attempt(row)


def _attempt(row: sqlite3.Row) -> Attempt:
    steps = tuple((str(name), int(at)) for name, at in json.loads(row["steps"]))
    return Attempt(**{**dict(row), "steps": steps})
