"""The queue: how commits get builds, and which of them is begun next."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ci.history import branches, bulk, outbox, states
from ci.models import (
    BuildState,
    Cause,
    Commit,
)

NOTHING: Mapping[str, str] = {}

# Milliseconds, more than any retry is put off. What is due still later was planned by a
# clock that has been put right since.
LONGEST_WAIT = 3700 * 1000

_TOP = (
    "b.head AND (b.branch IS NULL OR NOT EXISTS ("
    "  SELECT 1 FROM branch_commits c JOIN branch_commits newer "
    "    ON newer.repository_id = c.repository_id "
    "    AND newer.branch = c.branch AND newer.position > c.position "
    "  WHERE c.repository_id = b.repository_id AND c.branch = b.branch "
    "    AND c.build = b.number)) AS top"
)
_DUE = "b.state = 'queued' AND (b.not_before <= :now OR b.not_before > :now + :longest)"
_COLUMNS = (
    "repository_id, sha, branch, title, author, state, cause, delivery_id, "
    "requested_targets, head, queued_at"
)
_ORDER = "b.cause = 'update', top DESC, CASE WHEN top THEN b.number ELSE -b.number END"


@dataclass(frozen=True)
class Claimed:
    """A build that this server has just begun to try."""

    number: int
    repository: int
    repo: str
    branch: str | None
    sha: str
    attempt: int
    counted: int
    targets: tuple[str, ...]
    before: str | None
    forced: bool


@dataclass(frozen=True)
class Pushed:
    """Commits of one push, oldest first, of which none has a build; as for `enqueue`."""

    repository: int
    branch: str
    commits: Sequence[Commit]
    head: str
    at: int
    context: str
    delivery: int


def enqueue_new(
    connection: sqlite3.Connection, pushes: Sequence[Pushed]
) -> list[list[int]]:
    """What `enqueue` does for one push after the other, a table at a time.

    Returns the numbers of each. No commit may come twice.
    """
    flat = [(push, commit) for push in pushes for commit in push.commits]
    numbers = bulk.insert(
        connection,
        f"builds ({_COLUMNS})",
        [
            (
                push.repository,
                commit.sha,
                push.branch,
                commit.title,
                commit.author,
                "queued",
                Cause.PUSH,
                push.delivery,
                "[]",
                int(commit.sha == push.head),
                push.at,
            )
            for push, commit in flat
        ],
    )
    built = list(zip(numbers, flat, strict=True))
    outbox.announce_all(
        connection,
        [
            (number, commit.sha, push.context, push.at)
            for number, (push, commit) in built
            if commit.sha == push.head
        ],
    )
    branches.place_on_top(
        connection,
        [(push.repository, push.branch, number) for number, (push, _) in built],
    )
    left = iter(numbers)
    return [list(islice(left, len(push.commits))) for push in pushes]


def enqueue(
    connection: sqlite3.Connection,
    repository: int,
    branch: str | None,
    commits: Sequence[Commit],
    *,
    cause: Cause,
    head: str,
    at: int,
    context: str,
    targets: Sequence[str] = (),
    reasons: Mapping[str, str] = NOTHING,
    delivery: int | None = None,
    successor: int | None = None,
    before: str | None = None,
) -> list[int]:
    """Give each commit (oldest first) a build, or join the one it has; return numbers.

    `head` is the SHA that gets a pending status at once. `reasons` maps SHAs that are
    not to be built to why: new ones are `skipped`. One that was skipped earlier and is
    wanted now is queued again. `successor`: see branches.place. `before` is where the
    branch stood: where `head` is ahead of it already, builds stay as they are.
    """
    found, fresh, below = list[int](), True, None
    for commit in commits:
        reason, is_head = reasons.get(commit.sha), commit.sha == head
        number = _insert(
            connection,
            repository=repository,
            commit=commit,
            branch=branch,
            cause=cause,
            delivery=delivery,
            targets=targets,
            head=is_head,
            at=at,
        )
        if number is None:
            if fresh:
                below = branches.ahead(connection, repository, branch, before, head)
            fresh = False
            number = numbers(connection, repository, [commit.sha])[commit.sha]
            if reason is None and below is None:
                _reopen(connection, number, is_head, targets, at=at, context=context)
        elif reason is not None:
            _skip(connection, number, reason, at=at, context=context)
        elif is_head:
            outbox.announce(connection, number, commit.sha, context=context, at=at)
        found.append(number)
    if branch is not None:
        branches.place(
            connection,
            repository,
            branch,
            found,
            successor=successor,
            below=below,
            fresh=fresh,
        )
    return found


def _skip(
    connection: sqlite3.Connection, number: int, reason: str, *, at: int, context: str
) -> None:
    """The commit has its row, and why it is not built."""
    states.end_queued(
        connection, number, BuildState.SKIPPED, reason=reason, at=at, context=context
    )


def _reopen(
    connection: sqlite3.Connection,
    number: int,
    head: bool,
    targets: Sequence[str],
    *,
    at: int,
    context: str,
) -> None:
    row = connection.execute(
        "SELECT state FROM builds WHERE number = ?", (number,)
    ).fetchone()
    if row["state"] == BuildState.SKIPPED:
        states.reopen(connection, number, targets=targets, at=at, context=context)
    elif head:
        outbox.queue_pending(connection, number, context=context, at=at)


def _insert(
    connection: sqlite3.Connection,
    *,
    repository: int,
    commit: Commit,
    branch: str | None,
    cause: Cause,
    delivery: int | None,
    targets: Sequence[str],
    head: bool,
    at: int,
) -> int | None:
    """A new build; None when the commit has one."""
    cursor = connection.execute(
        f"INSERT INTO builds ({_COLUMNS}) "  # noqa: S608 — literals
        # ON CONFLICT DO NOTHING would use up a number.
        "SELECT ?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?7, ?8, ?9, ?10 WHERE NOT EXISTS "
        "(SELECT 1 FROM builds WHERE repository_id = ?1 AND sha = ?2)",
        (
            repository,
            commit.sha,
            branch,
            commit.title,
            commit.author,
            cause,
            delivery,
            json.dumps(list(targets)) if targets else "[]",
            int(head),
            at,
        ),
    )
    return cursor.lastrowid if cursor.rowcount else None


def numbers(
    connection: sqlite3.Connection, repository: int, shas: Sequence[str]
) -> dict[str, int]:
    """The build numbers of those of `shas` that have one, in the order given."""
    found = {}
    for sha in shas:
        row = connection.execute(
            "SELECT number FROM builds WHERE repository_id = ? AND sha = ?",
            (repository, sha),
        ).fetchone()
        if row is not None:
            found[sha] = int(row["number"])
    return found


def claim(
    connection: sqlite3.Connection,
    *,
    instance: int,
    at: int,
    context: str,
    besides: Collection[int] = (),
) -> Claimed | None:
    """Begin the build that is most wanted, or None when nothing waits.

    Heads of branches first, the longest waiting of them first; then older commits, the
    newest first; what nobody has pushed last. Those of the repositories in `besides` are
    left alone.
    """
    row = connection.execute(
        "SELECT b.*, r.name AS repo, d.before_sha, d.forced, "  # noqa: S608 — literals
        f"{_TOP} FROM builds b JOIN repositories r ON r.id = b.repository_id "
        "LEFT JOIN deliveries d ON d.id = b.delivery_id AND d.after_sha = b.sha "
        f"WHERE {_DUE} "
        "AND b.repository_id NOT IN (SELECT value FROM json_each(:besides)) "
        f"ORDER BY {_ORDER} LIMIT 1",
        {"now": at, "longest": LONGEST_WAIT, "besides": json.dumps(sorted(besides))},
    ).fetchone()
    if row is None:
        return None
    number, attempt = int(row["number"]), int(row["attempt"]) + 1
    states.become(connection, number, BuildState.RUNNING)
    connection.execute(
        "UPDATE builds SET attempt = ?, started_at = ?, finished_at = NULL, "
        "seconds = NULL, summary = '' WHERE number = ?",
        (attempt, at, number),
    )
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at) "
        "VALUES (?, ?, ?, ?)",
        (number, attempt, instance, at),
    )
    connection.execute("DELETE FROM targets WHERE build = ?", (number,))
    outbox.queue_pending(connection, number, context=context, at=at)
    return Claimed(
        number=number,
        repository=row["repository_id"],
        repo=row["repo"],
        branch=row["branch"],
        sha=row["sha"],
        attempt=attempt,
        counted=row["counted"],
        targets=tuple(json.loads(row["requested_targets"])),
        before=row["before_sha"],
        forced=bool(row["forced"]),
    )


def number_above(connection: sqlite3.Connection, number: int) -> int:
    """Give no new build a number up to `number`: those have logs already.

    After an older backup was put back, or the history begins anew, the state directory
    knows more builds than the history; returns how many.
    """
    connection.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'builds', 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'builds')"
    )
    row = connection.execute(
        "SELECT seq FROM sqlite_sequence WHERE name = 'builds'"
    ).fetchone()
    connection.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'builds'", (number,)
    )
    return max(0, number - int(row[0]))


@dataclass(frozen=True)
class Place:
    """Where a waiting build stands: `before` are those begun before it, if all is well.

    `running` counts what runs now. `not_before` is when a retry is due, in milliseconds;
    0 when it is due.
    """

    before: int
    running: int
    not_before: int


def place(connection: sqlite3.Connection, number: int, at: int) -> Place | None:
    """The place of a build in the queue; None when it does not wait."""
    now = {"now": at, "longest": LONGEST_WAIT}
    row = connection.execute(
        f"SELECT b.not_before, {_DUE} AS due FROM builds b "  # noqa: S608 — literals
        "WHERE b.number = :number AND b.state = 'queued'",
        {**now, "number": number},
    ).fetchone()
    if row is None:
        return None
    waiting = connection.execute(
        f"SELECT b.number, {_TOP} FROM builds b WHERE {_DUE} ORDER BY {_ORDER}",  # noqa: S608 — literals
        now,
    )
    before = 0
    for other in waiting:
        if other["number"] == number:
            break
        before += 1
    running = connection.execute(
        "SELECT count(*) AS n FROM builds WHERE state = 'running'"
    ).fetchone()
    return Place(before, running["n"], 0 if row["due"] else row["not_before"])


def waits(connection: sqlite3.Connection, number: int) -> bool:
    """Whether the build is queued at this moment of the transaction."""
    row = connection.execute(
        "SELECT state FROM builds WHERE number = ?", (number,)
    ).fetchone()
    return row is not None and row["state"] == BuildState.QUEUED


def next_retry_at(connection: sqlite3.Connection, at: int) -> int | None:
    """When the next waiting retry becomes due, in milliseconds; None when none waits."""
    row = connection.execute(
        "SELECT min(not_before) AS due FROM builds "
        "INDEXED BY builds_retry "
        "WHERE state = 'queued' AND not_before > 0 AND not_before > ?",
        (at,),
    ).fetchone()
    return None if row["due"] is None else int(row["due"])


def hurry(connection: sqlite3.Connection) -> int:
    """Make every build due that waits for the network; return how many.

    Those that wait after a fault of ours, which was counted, keep their time.
    """
    return connection.execute(
        "UPDATE builds SET not_before = 0 WHERE state = 'queued' AND not_before > 0 "
        "AND coalesce((SELECT outcome FROM attempts WHERE build = builds.number "
        "  ORDER BY number DESC LIMIT 1), '') <> 'error'"
    ).rowcount
