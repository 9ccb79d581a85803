"""What every history must be like: SQLite's own rules, and ours about rows.

They bind what decisions rest on. A rule must hold for all that any version has written:
a history that breaks one is not used.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from enum import StrEnum

from ci.history.schema import migrate, migrations_directory, version
from ci.models import BuildState, Cause, Outcome, RequestKind, StatusState

_LAST_MOMENT = 253_402_300_799_999  # the end of the year 9999, in milliseconds

_Rule = Callable[[str], str]
Columns = Mapping[str, list[str]]


def _is_sha(column: str) -> str:
    return f"length({column}) IN (40, 64) AND {column} NOT GLOB '*[^0-9a-f]*'"


def _is_json(column: str) -> str:
    return f"json_valid({column})"


def _is_one_of(words: type[StrEnum]) -> _Rule:
    listed = ", ".join(f"'{word}'" for word in words)
    return lambda column: f"{column} IN ({listed})"


def _is_time(column: str) -> str:
    return f"{column} BETWEEN 0 AND {_LAST_MOMENT}"


# Table, column, and what its values are, unless they are NULL. SQLite leaves the CHECKs
# of the schema out when it can only read.
_RULES: tuple[tuple[str, str, _Rule], ...] = (
    ("attempts", "outcome", _is_one_of(Outcome)),
    ("builds", "cause", _is_one_of(Cause)),
    ("builds", "requested_targets", _is_json),
    ("builds", "sha", _is_sha),
    ("builds", "state", _is_one_of(BuildState)),
    ("deliveries", "after_sha", _is_sha),
    ("deliveries", "before_sha", _is_sha),
    ("outbox", "sha", _is_sha),
    ("outbox", "state", _is_one_of(StatusState)),
    ("requests", "answer", _is_json),
    ("requests", "body", _is_json),
    ("requests", "kind", _is_one_of(RequestKind)),
    ("targets", "outputs", _is_json),
    ("targets", "state", _is_one_of(BuildState)),
    ("watched_branches", "sha", _is_sha),
)
_STATUS_OF_ANOTHER_COMMIT = (
    "outbox JOIN builds ON builds.number = outbox.build",
    "outbox.sha <> builds.sha",
)
# Made, but not carried out: for that each trigger must make sense.
_WRITES = (
    "INSERT INTO builds DEFAULT VALUES",
    "UPDATE builds SET state = 'queued'",
    "DELETE FROM builds",
)


def troubles(connection: sqlite3.Connection) -> Iterator[str]:
    """What breaks a rule, each in a few words; nothing when the history is sound."""
    for (message,) in connection.execute("PRAGMA integrity_check(1000000)"):
        if message != "ok" and not _mistaken(connection, message):
            yield message
    for table, _, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        yield f"a row of {table} belongs to a row of {parent} that is not there"
    present = _columns(connection)
    yield from _missing(connection, present)
    if _any(connection, *_STATUS_OF_ANOTHER_COMMIT):
        yield "outbox.sha is not the commit of its build"
    for table, column, rule in _RULES:
        if column in present.get(table, ()):
            yield from _broken(connection, table, column, rule)
    for table, columns in present.items():
        for column in columns:
            if column.endswith("_at"):
                yield from _broken(connection, table, column, _is_time)


def _missing(connection: sqlite3.Connection, present: Columns) -> Iterator[str]:
    """Parts of the schema that are gone, or make no sense."""
    number = version(connection)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        if not 0 < number <= migrate(fresh, migrations_directory(), number):
            return  # nothing is there yet, or too much: others say so
        wanted, names = _columns(fresh), _names(fresh)
    for table, columns in wanted.items():
        for column in columns:
            if column not in present.get(table, ()):
                yield f"{table}.{column} is not there"
    for name in sorted(names - _names(connection)):
        yield f"{name} is not there"
    for statement in _WRITES:
        try:
            connection.execute(f"EXPLAIN {statement}")
        except sqlite3.OperationalError as error:
            yield f"a trigger of builds is not what it was: {error}"


def _names(connection: sqlite3.Connection) -> set[str]:
    return {
        str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master")
    }


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """The columns of each table of ours."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'"
    )
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info('{name}')")]
        for (name,) in names.fetchall()
    }


def _mistaken(connection: sqlite3.Connection, message: str) -> bool:
    """SQLite 3.40 takes columns behind the key of a table WITHOUT ROWID for another one."""
    found = re.fullmatch(r"NULL value in (\w+)\.(\w+)", message)
    if found is None:
        return False
    # `IS NULL` would be taken for impossible without a look.
    return not _any(connection, found[1], f"typeof({found[2]}) = 'null'")


def _broken(
    connection: sqlite3.Connection, table: str, column: str, rule: _Rule
) -> Iterator[str]:
    if _any(connection, table, f"{column} IS NOT NULL AND NOT ({rule(column)})"):
        yield f"{table}.{column} holds what was never written there"


def _any(connection: sqlite3.Connection, table: str, condition: str) -> bool:
    query = f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1"  # noqa: S608 — of the schema
    return connection.execute(query).fetchone() is not None
