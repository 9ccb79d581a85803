"""What people asked for, and what they were told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ci.models import RequestKind


@dataclass(frozen=True)
class Request:
    """An open request; `body` is what the caller sent, already checked for shape."""

    id: int
    kind: RequestKind
    asked_at: int
    asked_by: str
    build: int | None
    body: Mapping[str, Any]


def ask(
    connection: sqlite3.Connection,
    kind: RequestKind,
    *,
    asked_by: str,
    at: int,
    build: int | None = None,
    body: Mapping[str, Any] | None = None,
) -> int:
    """Write a request down; return its id."""
    row = connection.execute(
        "INSERT INTO requests (kind, asked_at, asked_by, build, body) "
        "VALUES (?, ?, ?, ?, ?) RETURNING id",
        (kind, at, asked_by, build, json.dumps(dict(body or {}))),
    ).fetchone()
    return int(row["id"])


def unanswered(connection: sqlite3.Connection, kind: RequestKind) -> list[Request]:
    """Open requests of one kind, oldest first."""
    rows = connection.execute(
        "SELECT * FROM requests WHERE kind = ? AND answered_at IS NULL ORDER BY id",
        (kind,),
    )
    return [
        Request(
            id=row["id"],
            kind=RequestKind(row["kind"]),
            asked_at=row["asked_at"],
            asked_by=row["asked_by"],
            build=row["build"],
            body=json.loads(row["body"]),
        )
        for row in rows
    ]


def answer(
    connection: sqlite3.Connection,
    request: int,
    *,
    at: int,
    answer: Mapping[str, Any],
) -> None:
    """Close a request with what its asker is to be told."""
    connection.execute(
        "UPDATE requests SET answered_at = ?, answer = ?, "
        "build = coalesce(build, ?) WHERE id = ?",
        (at, json.dumps(dict(answer)), answer.get("build"), request),
    )


def outcome(connection: sqlite3.Connection, request: int) -> dict[str, Any] | None:
    """The answer, or None while the request is open or unknown."""
    row = connection.execute(
        "SELECT answer FROM requests WHERE id = ?", (request,)
    ).fetchone()
    if row is None or row["answer"] is None:
        return None
    found: dict[str, Any] = json.loads(row["answer"])
    return found
