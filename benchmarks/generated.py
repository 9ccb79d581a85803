"""A history of a million builds, written by SQL in seconds."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from ci.history.schema import migrate, migrations_directory

REPOSITORIES = ("octo-org/hello", "octo-org/tools", "octo-org/site", "octo-org/rare")
BRANCHES = ("dev", "main")
EVERY_MS = 60_000
# The last version without triggers that count: the next one counts all rows at once.
UNCOUNTED = 2
# They wait for a retry in an hour, so that no server begins them.
QUEUED = 50
AN_HOUR = 3600 * 1000

# The number of a build decides everything about it. Every 10,000th is the rare
# repository's; 3 of 4 are of the first branch; 1 of 7 failed. The newest was asked for
# just now; they wait up to 30 s and take 20 to 220 s.
_BUILDS = """
WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < :builds)
INSERT INTO builds (number, repository_id, sha, branch, title, author, state, cause,
    delivery_id, head, attempt, counted, queued_at, not_before, started_at,
    finished_at, seconds, summary)
SELECT i, CASE WHEN i % 10000 = 0 THEN 4 ELSE 1 + i % 3 END,
    printf('%08x%032x', (i * 2654435761) & 0xffffffff, i),
    CASE WHEN i % 4 = 0 THEN 'main' ELSE 'dev' END,
    'Change number ' || i, 'Mona Octocat',
    CASE WHEN i > :builds - :queued THEN 'queued' WHEN i % 7 = 0 THEN 'failed'
        WHEN i % 101 = 0 THEN 'error' WHEN i % 499 = 0 THEN 'cancelled'
        WHEN i % 997 = 0 THEN 'skipped' ELSE 'succeeded' END,
    'push', i, 1, i <= :builds - :queued, 0, :first + i * :every,
    iif(i > :builds - :queued, :never, 0),
    iif(i > :builds - :queued, NULL, :first + i * :every + i * 7919 % 30000),
    iif(i > :builds - :queued, NULL,
        :first + i * :every + i * 7919 % 30000 + 20000 + i * 7907 % 200000),
    iif(i > :builds - :queued, NULL, 20 + i * 7907 % 200000 / 1000.0),
    CASE WHEN i % 7 = 0 THEN '1 of 2 failed: checks.web: expected 200, got 500'
        ELSE '2 targets built' END
FROM n
"""
_REST = (
    "INSERT INTO deliveries SELECT number, '30', substr(sha, 1, 8) || '-' || number,"
    " 'push', queued_at, sha, repository_id, 'refs/heads/' || branch,"
    " printf('%08x%032x', ((number - 1) * 2654435761) & 0xffffffff, number - 1), sha,"
    " number % 1000 = 0, 1, '' FROM builds",
    "INSERT INTO branch_commits (repository_id, branch, build, position) "
    "SELECT repository_id, branch, number, number FROM builds",
    "INSERT INTO attempts (build, number, instance_id, started_at, finished_at,"
    " seconds, outcome, reason) SELECT number, 1, 1, started_at, finished_at, seconds,"
    " state, '' FROM builds WHERE attempt = 1",
    # Of the newest, derivations are known: each comes in several builds.
    "INSERT INTO targets SELECT number, t.name, t.position,"
    " iif(t.position = 0 AND state = 'failed', 'succeeded', state), 21.0, NULL,"
    " iif(number > (SELECT max(number) FROM builds) - 20000,"
    " printf('/nix/store/%032x-%d.drv', number / 24, t.position), NULL), '{}'"
    " FROM builds JOIN (SELECT 'packages.default' AS name, 0 AS position"
    " UNION ALL SELECT 'checks.web', 1) t WHERE attempt = 1",
    "INSERT INTO outbox (build, sha, context, state, head, queued_at, sent_at)"
    " SELECT number, sha, 'build-server', 'success', 1, finished_at, finished_at"
    " FROM builds WHERE attempt = 1",
)


@dataclass(frozen=True)
class Generated:
    """A history file with builds 1 to `builds`."""

    path: Path
    builds: int

    def sha(self, number: int) -> str:
        return f"{(number * 2654435761) & 0xFFFFFFFF:08x}{number:032x}"


def generate(path: Path, builds: int) -> Generated:
    """Make the history; it is not durable until SQLite closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        migrate(connection, migrations_directory(), UNCOUNTED)
        for pragma in (
            "synchronous = OFF",
            "journal_mode = WAL",
            "cache_size = -800000",
        ):
            connection.execute(f"PRAGMA {pragma}")
        now = time.time_ns() // 1_000_000
        numbers = {
            "builds": builds,
            "queued": QUEUED,
            "first": now - builds * EVERY_MS,
            "every": EVERY_MS,
            "never": now + AN_HOUR,
        }
        connection.execute("BEGIN")
        connection.execute("INSERT INTO instances VALUES (1, 'boot', 1, 1, 1, 2)")
        connection.executemany(
            "INSERT INTO repositories (name) VALUES (?)",
            [(name,) for name in REPOSITORIES],
        )
        connection.execute(_BUILDS, numbers)
        for statement in _REST:
            connection.execute(statement)
        connection.execute("COMMIT")
        migrate(connection, migrations_directory())
    finally:
        connection.close()
    return Generated(path, builds)
