"""Histories as earlier versions wrote them, and every way to look at all their rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from ci.history.database import connect_writer
from ci.history.schema import migrate, migrations_directory

Rows = Mapping[str, list[tuple[object, ...]]]

_AT = 1_795_132_800_000
_PUSHES = 40
# What version 1 kept: for each of `_PUSHES` pushes of one commit, :n from 1 on.
_FIRST = (
    "INSERT INTO instances VALUES (1, 'boot', 4711, 99, :at, NULL)",
    "INSERT INTO repositories VALUES (1, 'octo-org/hello', 1296269, 'octo-org/hello')",
)
_EACH = (
    "INSERT INTO deliveries VALUES (:n, '30', 'guid-' || :n, 'push', :at + :n, 'digest',"
    " 1, 'refs/heads/dev', printf('%040x', :n - 1), printf('%040x', :n), :n % 7 = 0, 1, '')",
    "INSERT INTO builds (number, repository_id, sha, branch, title, author, state, cause,"
    " delivery_id, head, attempt, queued_at, started_at, finished_at, seconds, summary)"
    " VALUES (:n, 1, printf('%040x', :n), 'dev', 'change ' || :n, 'Ada', CASE :n % 4"
    " WHEN 0 THEN 'failed' WHEN 1 THEN 'succeeded' WHEN 2 THEN 'queued' ELSE 'running' END,"
    " 'push', :n, 1, :n % 4 <> 2, :at, :at + 1, :at + 2, 1.5, 'its summary')",
    "INSERT INTO branch_commits (repository_id, branch, position, build)"
    " VALUES (1, 'dev', :n, :n)",
    "INSERT INTO attempts (build, number, instance_id, started_at, outcome)"
    " SELECT :n, 1, 1, :at, nullif(state, 'running') FROM builds"
    " WHERE number = :n AND attempt = 1",
    "INSERT INTO targets (build, name, position, state, outputs)"
    " VALUES (:n, 'packages.default', 0, 'succeeded', '{\"out\": \"/nix/store/x\"}')",
    "INSERT INTO derivations VALUES (:n, 1, '/nix/store/x.drv', '', :at, :at + 1)",
    "INSERT INTO requests (kind, asked_at, asked_by, build, body, answered_at, answer)"
    " VALUES ('retry', :at, 'Ada', :n, '{}', :at, '{\"build\": 1}')",
    "INSERT INTO outbox (build, sha, context, state, head, queued_at, sent_at)"
    " VALUES (:n, printf('%040x', :n), 'build-server', 'pending', 1, :at,"
    " iif(:n % 2, :at, NULL))",
)


def old_history(path: Path, version: int) -> None:
    """Write a history at `path` with rows in every table of version 1, at `version`."""
    with closing(connect_writer(path)) as connection:
        migrate(connection, migrations_directory(), 1)
        connection.execute("BEGIN")
        for statement in _FIRST:
            connection.execute(statement, {"at": _AT})
        for number in range(1, _PUSHES + 1):
            for statement in _EACH:
                connection.execute(statement, {"at": _AT, "n": number})
        connection.execute("COMMIT")
        migrate(connection, migrations_directory(), version)


def schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    """Every table, index and trigger, with its definition."""
    return [
        tuple(row)
        for row in connection.execute(
            "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_master "
            "ORDER BY type, name"
        )
    ]


def columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of each table of ours."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    ).fetchall()
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
        for (name,) in map(tuple, names)
    }


def rows(connection: sqlite3.Connection, wanted: Mapping[str, list[str]]) -> Rows:
    """All rows of the `wanted` columns of the `wanted` tables, sorted."""
    return {
        table: sorted(
            (
                tuple(row)
                for row in connection.execute(
                    f"SELECT {', '.join(names)} FROM {table}"  # noqa: S608 — of the schema
                )
            ),
            key=repr,
        )
        for table, names in wanted.items()
    }
