"""What may be removed from the history, and removing it in short transactions.

Never removed: builds that wait or run, pinned ones, the newest of a configured branch,
its last verdict and its last green one, and whatever GitHub must still be told. Readers
choose, the writer checks each choice again: a build may have been retried or pinned since.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence

from ci.history import builds
from ci.models import Build, BuildState

# Tables that refer to a build and go with it. Pins are not among them: a pinned one stays.
OF_BUILD = (
    "targets",
    "derivations",
    "attempts",
    "branch_commits",
    "outbox",
    "requests",
)
# One transaction of the writer, in rows and in seconds: a push waits behind it.
BATCH = 200
AT_MOST = 0.02

_OVER = "b.state NOT IN ('queued', 'running')"
_UNPINNED = "NOT EXISTS (SELECT 1 FROM pins p WHERE p.build = b.number)"
_FREE = f"{_OVER} AND {_UNPINNED}"
_TOLD = (
    "NOT EXISTS (SELECT 1 FROM outbox o WHERE o.build = b.number "
    "AND o.sent_at IS NULL AND o.dead = 0) "
    "AND NOT EXISTS (SELECT 1 FROM requests q WHERE q.build = b.number "
    "AND q.answered_at IS NULL)"
)

Branches = Collection[tuple[str, str]]


def kept(connection: sqlite3.Connection, branches: Branches) -> frozenset[int]:
    """Builds that every removal spares for the sake of these (repository, branch)."""
    found = {
        build.number
        for repo, branch in branches
        for build in (
            builds.newest(connection, repo, branch),
            builds.newest_finished(connection, repo, branch),
            last_green(connection, repo, branch),
        )
        if build is not None
    }
    return frozenset(found)


def last_green(connection: sqlite3.Connection, repo: str, branch: str) -> Build | None:
    """The newest commit of a branch that was built."""
    row = connection.execute(
        "SELECT c.build FROM branch_commits c JOIN builds b ON b.number = c.build "
        "JOIN repositories r ON r.id = c.repository_id "
        "WHERE r.name = ? AND c.branch = ? AND b.state = 'succeeded' "
        "ORDER BY c.position DESC LIMIT 1",
        (repo, branch),
    ).fetchone()
    return None if row is None else builds.get(connection, row["build"])


def needed_results(
    connection: sqlite3.Connection,
    repository: int,
    numbers: Collection[int],
    count: int,
) -> frozenset[int]:
    """Those of `numbers` that are pinned, or among the newest `count` of them on a branch."""
    chosen = json.dumps(list(numbers))
    rows = connection.execute(
        "SELECT build FROM pins WHERE build IN (SELECT value FROM json_each(?1)) "
        # CROSS JOIN: they are few, but a branch can be long.
        "UNION SELECT build FROM (SELECT c.build, row_number() OVER "
        "  (PARTITION BY c.branch ORDER BY c.position DESC) AS place "
        "  FROM json_each(?1) CROSS JOIN branch_commits c ON c.build = value "
        "  WHERE c.repository_id = ?2) WHERE place <= ?3",
        (chosen, repository, count),
    )
    return frozenset(row["build"] for row in rows)


def last_seen(connection: sqlite3.Connection) -> int | None:
    """The latest time that anything in the history bears, but for this instance's start."""
    row = connection.execute(
        "SELECT max(at) AS at FROM ("
        "SELECT max(finished_at) AS at FROM builds WHERE finished_at IS NOT NULL "
        "UNION ALL SELECT max(received_at) FROM deliveries "
        "UNION ALL SELECT max(started_at) FROM instances "
        "  WHERE id < (SELECT max(id) FROM instances))"
    ).fetchone()
    return None if row["at"] is None else int(row["at"])


# Builds


def excess(connection: sqlite3.Connection, limit: int) -> int:
    """How many builds there are beyond `limit`."""
    row = connection.execute("SELECT sum(n) AS n FROM build_counts").fetchone()
    return max(0, int(row["n"] or 0) - limit)


def old_builds(
    connection: sqlite3.Connection, spared: Collection[int], limit: int
) -> list[int]:
    """Numbers of builds that may be removed, those that ended first in front."""
    rows = connection.execute(
        "SELECT b.number FROM builds b "  # noqa: S608 — literals
        f"WHERE b.finished_at IS NOT NULL AND {_FREE} AND {_TOLD} "
        "AND b.number NOT IN (SELECT value FROM json_each(?)) "
        "ORDER BY b.finished_at LIMIT ?",
        (json.dumps(list(spared)), limit),
    )
    return [row["number"] for row in rows]


def remove_builds(
    connection: sqlite3.Connection,
    numbers: Sequence[int],
    branches: Branches,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Remove these builds with all that refers to them; return those dealt with.

    Ends early when it has taken AT_MOST seconds. Their files are left to the caller, who
    finds them in `removed_builds` whatever happens meanwhile. One that may not go any
    more (pinned, retried, at the top of a branch again) is left alone.
    """
    deadline = clock() + AT_MOST
    done: list[int] = []
    tops = [builds.newest(connection, repo, branch) for repo, branch in branches]
    newest = {build.number for build in tops if build is not None}
    for number in numbers:
        if done and clock() > deadline:
            break
        done.append(number)
        row = connection.execute(
            f"SELECT b.repository_id FROM builds b WHERE b.number = ? "  # noqa: S608 — literals
            f"AND {_FREE} AND {_TOLD}",
            (number,),
        ).fetchone()
        if row is None or number in newest:
            continue
        connection.execute(
            "INSERT OR REPLACE INTO removed_builds (number, repository_id) VALUES (?, ?)",
            (number, row["repository_id"]),
        )
        for table in OF_BUILD:
            connection.execute(f"DELETE FROM {table} WHERE build = ?", (number,))  # noqa: S608 — ours
        connection.execute("DELETE FROM builds WHERE number = ?", (number,))
    return done


def unknown(connection: sqlite3.Connection, numbers: Collection[int]) -> list[int]:
    """Those of `numbers` that no build has."""
    rows = connection.execute(
        "SELECT value FROM json_each(?) "
        "WHERE NOT EXISTS (SELECT 1 FROM builds WHERE number = value)",
        (json.dumps(list(numbers)),),
    )
    return [row["value"] for row in rows]


def removed_builds(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    """(number, repository id) of removed builds whose files may still be there."""
    rows = connection.execute("SELECT * FROM removed_builds LIMIT ?", (BATCH,))
    return [(row["number"], row["repository_id"]) for row in rows]


def forget_removed(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Their files have gone too."""
    connection.executemany(
        "DELETE FROM removed_builds WHERE number = ?", [(n,) for n in numbers]
    )


# What was told


def old_deliveries(connection: sqlite3.Connection, before: int) -> list[int]:
    """Deliveries older than `before` (milliseconds) that decide nothing any more.

    Kept: the last accepted one of each ref, those of builds that wait or run, and all that
    came since the longest waiting build was asked for: a force push may be among them.
    """
    rows = connection.execute(
        "SELECT d.id FROM deliveries d WHERE d.received_at < min(?, coalesce("
        "  (SELECT min(queued_at) FROM builds WHERE state IN ('queued', 'running')), ?)) "
        "AND (d.accepted = 0 OR EXISTS (SELECT 1 FROM deliveries later "
        "  WHERE later.repository_id IS d.repository_id AND later.ref IS d.ref "
        "  AND later.accepted = 1 AND later.id > d.id)) "
        "AND NOT EXISTS (SELECT 1 FROM builds b WHERE b.delivery_id = d.id "
        "  AND b.state IN ('queued', 'running')) "
        "ORDER BY d.received_at LIMIT ?",
        (before, before, BATCH),
    )
    return [row["id"] for row in rows]


def remove_deliveries(
    connection: sqlite3.Connection,
    ids: Sequence[int],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Remove deliveries; their builds stay. Return those dealt with in AT_MOST seconds."""
    deadline = clock() + AT_MOST
    done: list[int] = []
    for delivery in ids:
        if done and clock() > deadline:
            break
        done.append(delivery)
        connection.execute(
            "UPDATE builds SET delivery_id = NULL WHERE delivery_id = ?", (delivery,)
        )
        connection.execute("DELETE FROM deliveries WHERE id = ?", (delivery,))
    return done


def old_statuses(connection: sqlite3.Connection, before: int) -> list[int]:
    """Old statuses that were sent, or refused for good, and decide nothing any more.

    Kept: those of builds that wait or run, and what was last said of a failing target: a
    retry that succeeds must take it back.
    """
    rows = connection.execute(
        "SELECT o.id FROM outbox o JOIN builds b ON b.number = o.build "  # noqa: S608 — literals
        "WHERE (o.sent_at < :before OR (o.dead = 1 AND o.queued_at < :before)) "
        f"AND {_OVER} AND (o.target IS NULL OR EXISTS (SELECT 1 FROM outbox later "
        "  WHERE later.build = o.build AND later.id > o.id "
        "  AND later.context = o.context COLLATE NOCASE)) LIMIT :batch",
        {"before": before, "batch": BATCH},
    )
    return [row["id"] for row in rows]


def remove_statuses(connection: sqlite3.Connection, ids: Sequence[int]) -> list[int]:
    """Remove statuses; return those dealt with."""
    connection.executemany("DELETE FROM outbox WHERE id = ?", [(id_,) for id_ in ids])
    return list(ids)


def remove_answered(connection: sqlite3.Connection, before: int) -> int:
    """Remove old requests that were answered; return how many."""
    return connection.execute(
        "DELETE FROM requests WHERE id IN (SELECT id FROM requests "
        "WHERE answered_at IS NOT NULL AND answered_at < ? LIMIT ?)",
        (before, BATCH),
    ).rowcount


def remove_missed(connection: sqlite3.Connection, before: int) -> int:
    """Remove what is known of deliveries missed long ago; return how many."""
    return connection.execute(
        "DELETE FROM missed_deliveries WHERE (hook_id, guid) IN "
        "(SELECT hook_id, guid FROM missed_deliveries WHERE found_at < ? LIMIT ?)",
        (before, BATCH),
    ).rowcount


def remove_instances(connection: sqlite3.Connection, before: int) -> int:
    """Remove old runs of the server that no attempt refers to; return how many."""
    return connection.execute(
        "DELETE FROM instances WHERE id IN (SELECT i.id FROM instances i "
        "WHERE i.started_at < ? AND i.id < (SELECT max(id) FROM instances) "
        "AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.instance_id = i.id) LIMIT ?)",
        (before, BATCH),
    ).rowcount


# Repositories


def note_configured(
    connection: sqlite3.Connection, ids: Collection[int], at: int
) -> None:
    """These repositories are configured now; of one not seen yet the grace begins."""
    for number in ids:
        connection.execute(
            "UPDATE repositories SET configured_at = ? WHERE id = ?", (at, number)
        )
    connection.execute(
        "UPDATE repositories SET configured_at = ? WHERE configured_at IS NULL", (at,)
    )


def unconfigured(connection: sqlite3.Connection, before: int) -> frozenset[int]:
    """Ids of repositories last seen in the configuration before that time."""
    rows = connection.execute(
        "SELECT id FROM repositories WHERE configured_at < ?", (before,)
    )
    return frozenset(row["id"] for row in rows)


def at_work(connection: sqlite3.Connection) -> frozenset[int]:
    """Ids of repositories that are being built."""
    rows = connection.execute(
        "SELECT DISTINCT repository_id AS id FROM builds WHERE state = 'running'"
    )
    return frozenset(row["id"] for row in rows)


def green_targets(
    connection: sqlite3.Connection, branches: Branches
) -> dict[tuple[int, str], frozenset[str]]:
    """(repository id, branch) -> names of the targets that its last green build built."""
    found = {}
    for repo, branch in branches:
        build = last_green(connection, repo, branch)
        row = connection.execute(
            "SELECT id FROM repositories WHERE name = ?", (repo,)
        ).fetchone()
        if build is not None and row is not None:
            found[int(row["id"]), branch] = frozenset(
                target.name
                for target in build.targets
                if target.state is BuildState.SUCCEEDED
            )
    return found
