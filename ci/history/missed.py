"""Deliveries that GitHub made and this server never saw, and what became of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

HOUR = 3600 * 1000
DAY = 24 * HOUR
# GitHub can deliver again for so long (on github.com; its own servers keep them longer).
# https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks/redelivering-webhooks
WINDOW = 3 * DAY
# A delivery that was asked for and did not come is asked for again: soon at first (a host
# that has just woken reaches GitHub before Funnel reaches the host), then after as long as
# it has been asked for in vain.
ASK_SOON = 5 * 60 * 1000
ASK_AGAIN = 6 * HOUR
# What has not come this long after it was missed will hardly come by itself.
LATE = HOUR
RECENT = 7 * DAY


@dataclass(frozen=True)
class Tally:
    """How many deliveries were missed, and how many of these came after all.

    `recent_*` count those found missing in the last RECENT; `late` those that GitHub
    could still deliver but has not for long, `open` all that have not come.
    """

    missed: int = 0
    recovered: int = 0
    recent_missed: int = 0
    recent_recovered: int = 0
    open: int = 0
    late: int = 0


def record(
    connection: sqlite3.Connection,
    repository: int,
    hook: str,
    failed: Iterable[tuple[str, int]],
    *,
    at: int,
) -> list[str]:
    """Note the GUIDs that are not in the history; return those to be asked for now.

    `failed` is (GUID, time of the first try in ms) of deliveries that GitHub could not
    make.
    """
    for guid, delivered_at in failed:
        connection.execute(
            "INSERT INTO missed_deliveries (hook_id, guid, repository_id, delivered_at, "
            "found_at) SELECT ?1, ?2, ?3, ?4, ?5 WHERE NOT EXISTS ("
            "  SELECT 1 FROM deliveries WHERE hook_id = ?1 AND guid = ?2) "
            "ON CONFLICT (hook_id, guid) DO NOTHING",
            (hook, guid, repository, delivered_at, at),
        )
    recover(connection)
    rows = connection.execute(
        "SELECT guid FROM missed_deliveries WHERE hook_id = ? AND recovered_at IS NULL "
        "AND delivered_at > ? AND (asked_at IS NULL "
        "  OR abs(? - asked_at) > min(max(asked_at - found_at, ?), ?)) "
        "ORDER BY delivered_at",
        (hook, at - WINDOW, at, ASK_SOON, ASK_AGAIN),
    )
    return [row["guid"] for row in rows]


def asked(connection: sqlite3.Connection, hook: str, guid: str, *, at: int) -> None:
    """GitHub was asked to deliver it again."""
    connection.execute(
        "UPDATE missed_deliveries SET asked_at = ? WHERE hook_id = ? AND guid = ?",
        (at, hook, guid),
    )


def recover(connection: sqlite3.Connection) -> None:
    """Note which of them have come."""
    connection.execute(
        "UPDATE missed_deliveries SET recovered_at = (SELECT d.received_at "
        "  FROM deliveries d WHERE d.hook_id = missed_deliveries.hook_id "
        "  AND d.guid = missed_deliveries.guid) WHERE recovered_at IS NULL"
    )


def open_since(connection: sqlite3.Connection, repository: int, at: int) -> bool:
    """Whether GitHub could still deliver something that has not come."""
    row = connection.execute(
        "SELECT 1 FROM missed_deliveries WHERE repository_id = ? "
        "AND recovered_at IS NULL AND delivered_at > ? LIMIT 1",
        (repository, at - WINDOW),
    ).fetchone()
    return row is not None


def tally(connection: sqlite3.Connection, at: int) -> Tally:
    """The numbers as of `at`, in milliseconds since the epoch."""
    row = connection.execute(
        "SELECT count(*) AS missed, count(recovered_at) AS recovered, "
        "  count(*) FILTER (WHERE found_at > :recent) AS recent_missed, "
        "  count(recovered_at) FILTER (WHERE found_at > :recent) AS recent_recovered, "
        "  count(*) FILTER (WHERE recovered_at IS NULL "
        "    AND delivered_at > :window) AS open, "
        "  count(*) FILTER (WHERE recovered_at IS NULL AND delivered_at > :window "
        "    AND found_at < :late) AS late FROM missed_deliveries",
        {"recent": at - RECENT, "window": at - WINDOW, "late": at - LATE},
    ).fetchone()
    return Tally(**{name: int(row[name]) for name in row.keys()})  # noqa: SIM118 — a Row iterates over values


def hooks(connection: sqlite3.Connection, repository: int, since: int) -> list[str]:
    """The webhooks that told of the repository's pushes since then."""
    rows = connection.execute(
        "SELECT DISTINCT hook_id FROM deliveries WHERE received_at > ? "
        "AND repository_id = ? AND event = 'push'",
        (since, repository),
    )
    return [row["hook_id"] for row in rows if row["hook_id"].isdecimal()]
