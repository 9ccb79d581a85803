"""Repositories: configured by name, followed by GitHub's number through renames."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence


def ensure(connection: sqlite3.Connection, names: Sequence[str]) -> dict[str, int]:
    """Give every configured name a row; return configured name -> id."""
    for name in names:
        connection.execute(
            "INSERT INTO repositories (name) VALUES (?) ON CONFLICT (name) DO NOTHING",
            (name,),
        )
    rows = connection.execute("SELECT id, name FROM repositories")
    return {row["name"]: row["id"] for row in rows}


def known(connection: sqlite3.Connection) -> dict[int, str]:
    """GitHub's id -> configured name, for every repository it has told us about."""
    rows = connection.execute(
        "SELECT github_id, name FROM repositories WHERE github_id IS NOT NULL"
    )
    return {row["github_id"]: row["name"] for row in rows}


def remember(
    connection: sqlite3.Connection, name: str, github_id: int, github_name: str
) -> int:
    """Bind a configured name to GitHub's id and present name; return our id.

    The id wins over an earlier holder: a repository that was deleted and made anew
    under the same name has a new one.
    """
    connection.execute(
        "UPDATE repositories SET github_id = NULL WHERE github_id = ? AND name <> ?",
        (github_id, name),
    )
    row = connection.execute(
        "INSERT INTO repositories (name, github_id, github_name) VALUES (?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET github_id = excluded.github_id, "
        "github_name = excluded.github_name RETURNING id",
        (name, github_id, github_name),
    ).fetchone()
    return int(row["id"])


def identify(connection: sqlite3.Connection, name: str) -> int:
    """Our id of a configured name, made when absent."""
    row = connection.execute(
        "SELECT id FROM repositories WHERE name = ?", (name,)
    ).fetchone()
    return int(row["id"]) if row else ensure(connection, [name])[name]


def github_name(connection: sqlite3.Connection, name: str) -> str:
    """What GitHub calls the repository now; the configured name until it has told."""
    row = connection.execute(
        "SELECT github_name FROM repositories WHERE name = ?", (name,)
    ).fetchone()
    return str(row["github_name"]) if row and row["github_name"] else name
