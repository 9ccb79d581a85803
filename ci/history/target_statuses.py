"""Statuses of single targets: only those that fail get a context of their own.

A branch protection can name the aggregate context only; these are for reading.
"""

from __future__ import annotations

import hashlib
import sqlite3

from ci.models import BuildState, StatusState

CONTEXT_LIMIT = 255
FAILING_TARGETS = 20

News = tuple[str, StatusState, str | None]


def target_context(context: str, target: str) -> str:
    """The context of one target: stable, at most 255 characters that GitHub takes.

    GitHub refuses characters above U+FFFF. What has to be changed gets a digest, so
    that two targets do not come to share a context by it.
    """
    name = f"{context}/{target}"
    plain = "".join(c if c.isprintable() and c <= "\uffff" else "_" for c in name)
    if plain == name and len(name) <= CONTEXT_LIMIT:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{plain[: CONTEXT_LIMIT - 11]}-{digest}"


def news(
    connection: sqlite3.Connection, build: sqlite3.Row, context: str
) -> list[News]:
    """(context, state, target) to tell at the end of a build; failures come first.

    `build` is its row. A target that GitHub was told to fail is told to succeed once it
    has been built, or once the build succeeds and no longer has it; a later attempt that
    never got to it proves nothing.
    """
    rows = connection.execute(
        "SELECT name, state FROM targets WHERE build = ? ORDER BY position",
        (build["number"],),
    ).fetchall()
    failing: dict[str, tuple[str, str]] = {}
    built = set()
    for row in rows:
        where = target_context(context, row["name"])
        if row["state"] == BuildState.FAILED:
            failing.setdefault(where.lower(), (where, row["name"]))
        elif row["state"] == BuildState.SUCCEEDED:
            built.add(where.lower())
    found: list[News] = [
        (where, StatusState.FAILURE, name)
        for where, name in list(failing.values())[:FAILING_TARGETS]
    ]
    everything = build["state"] == BuildState.SUCCEEDED and (
        build["requested_targets"] == "[]"
    )
    named = {target_context(context, row["name"]).lower() for row in rows}
    for where, target in _told_failing(connection, build["number"]):
        gone = everything and where.lower() not in named
        if where.lower() not in failing and (where.lower() in built or gone):
            found.append((where, StatusState.SUCCESS, target))
    return found


def _told_failing(connection: sqlite3.Connection, number: int) -> list[tuple[str, str]]:
    """(context, target) of the targets that GitHub was, or will be, told to fail."""
    rows = connection.execute(
        "SELECT context, target, state, max(id) FROM outbox "
        "WHERE build = ? AND target IS NOT NULL AND dead = 0 "
        "GROUP BY context COLLATE NOCASE ORDER BY max(id)",
        (number,),
    )
    return [
        (row["context"], row["target"])
        for row in rows
        if row["state"] == StatusState.FAILURE
    ]
