"""Deliveries: what GitHub told us, each once, and the builds that follow from it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ci.history import bulk, endings, queue, repositories, watched
from ci.models import Cause, Commit

# What GitHub calls repositories, and our ids, as one batch of arrivals has found them.
Known = dict[tuple[str, int, str], int]

_DELIVERIES = (
    "deliveries (hook_id, guid, event, received_at, body_sha256, repository_id, ref, "
    "before_sha, after_sha, forced, accepted, reason)"
)
_HEARD_OF = (
    "WITH asked (place, hook_id, guid, repository_id, ref, after_sha, sha) "
    "AS (VALUES {}) SELECT place FROM asked "
    "WHERE EXISTS (SELECT 1 FROM deliveries d "
    "  WHERE d.hook_id = asked.hook_id AND d.guid = asked.guid) "
    "OR EXISTS (SELECT 1 FROM deliveries d WHERE d.repository_id = asked.repository_id "
    "  AND d.ref = asked.ref AND d.before_sha = asked.after_sha) "
    "OR EXISTS (SELECT 1 FROM builds b "
    "  WHERE b.repository_id = asked.repository_id AND b.sha = asked.sha)"
)


@dataclass(frozen=True)
class Plan:
    """What a push means for us: its commits, oldest first, and why some are not built.

    `reasons` maps the SHA of a commit that gets a row but no build to the sentence why.
    """

    repo: str
    github_id: int
    github_name: str
    branch: str
    commits: tuple[Commit, ...]
    reasons: Mapping[str, str]
    head: str
    policy: str
    context: str

    @property
    def build(self) -> tuple[Commit, ...]:
        """The commits that are wanted, oldest first."""
        return tuple(c for c in self.commits if c.sha not in self.reasons)


@dataclass(frozen=True)
class Arrival:
    """A signed delivery, with its plan or the reason why there is none.

    `deleted` is the watched branch that a push took away; `context` is the name under
    which statuses are posted.
    """

    hook_id: str
    guid: str
    event: str
    received_at: int
    body_sha256: str
    ref: str | None
    before: str | None
    after: str | None
    forced: bool
    plan: Plan | None
    reason: str
    repo: str | None
    deleted: str | None = None
    context: str = ""


@dataclass(frozen=True)
class Receipt:
    """What became of an arrival; `builds` are the numbers of its wanted commits."""

    accepted: bool
    duplicate: bool
    reason: str
    builds: tuple[int, ...]


def accept(
    connection: sqlite3.Connection, arrivals: Sequence[Arrival]
) -> list[Receipt]:
    """Record each arrival and enqueue its plan; a repeat changes nothing.

    Neighbours that bring nothing but what is new are recorded together, a table at a
    time, with the same result as one after the other.
    """
    known: Known = {}
    receipts: list[Receipt] = []
    new = _bring_only_new(connection, arrivals, known) if len(arrivals) > 1 else set()
    for together, places in groupby(range(len(arrivals)), new.__contains__):
        group = [arrivals[place] for place in places]
        if together:
            receipts += _accept_together(connection, group, known)
        else:
            receipts += [_accept(connection, arrival, known) for arrival in group]
    return receipts


def _bring_only_new(
    connection: sqlite3.Connection, arrivals: Sequence[Arrival], known: Known
) -> set[int]:
    """The places in `arrivals` of pushes that nothing recorded, or before them, touches.

    All their commits are new and to be built, and none of them was overtaken.
    """
    found: set[int] = set()
    asked: list[bulk.Row] = []
    guids: set[tuple[str, str]] = set()
    shas: set[str | None] = set()
    left: set[str | None] = set()
    for place, arrival in enumerate(arrivals):
        plan, guid = arrival.plan, (arrival.hook_id, arrival.guid)
        theirs = [commit.sha for commit in plan.commits] if plan else []
        # For all of them, and in their order: a later one may tell of a new name.
        repository = _repository(connection, plan, known) if plan else None
        if (
            plan is not None
            and plan.policy == "every"
            and not plan.reasons
            and guid not in guids
            and arrival.after not in left
            and shas.isdisjoint(theirs)
        ):
            found.add(place)
            of = (place, *guid, repository, arrival.ref, arrival.after)
            asked += [(*of, sha) for sha in theirs]
        guids.add(guid)
        shas.update(theirs)
        left.add(arrival.before)
    old = bulk.select(connection, _HEARD_OF, asked)
    return found.difference(row["place"] for row in old)


def _accept_together(
    connection: sqlite3.Connection, arrivals: Sequence[Arrival], known: Known
) -> list[Receipt]:
    pairs = [
        (arrival, _repository(connection, arrival.plan, known), arrival.plan)
        for arrival in arrivals
        if arrival.plan is not None
    ]
    deliveries = bulk.insert(
        connection,
        _DELIVERIES,
        [_row(arrival, repository) for arrival, repository, _ in pairs],
    )
    numbers = queue.enqueue_new(
        connection,
        [
            queue.Pushed(
                repository=repository,
                branch=plan.branch,
                commits=plan.commits,
                head=plan.head,
                at=arrival.received_at,
                context=plan.context,
                delivery=delivery,
            )
            for (arrival, repository, plan), delivery in zip(
                pairs, deliveries, strict=True
            )
        ],
    )
    return [Receipt(True, False, "", tuple(builds)) for builds in numbers]


def _row(arrival: Arrival, repository: int | None) -> bulk.Row:
    """The values of _DELIVERIES."""
    return (
        arrival.hook_id,
        arrival.guid,
        arrival.event,
        arrival.received_at,
        arrival.body_sha256,
        repository,
        arrival.ref,
        arrival.before,
        arrival.after,
        int(arrival.forced),
        int(arrival.plan is not None),
        arrival.reason,
    )


def _accept(connection: sqlite3.Connection, arrival: Arrival, known: Known) -> Receipt:
    plan = arrival.plan
    if plan is None:
        repository = _configured(connection, arrival.repo)
    else:
        repository = _repository(connection, plan, known)
    cursor = connection.execute(
        f"INSERT INTO {_DELIVERIES} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 — literals
        "ON CONFLICT (hook_id, guid) DO NOTHING",
        _row(arrival, repository),
    )
    delivery = cursor.lastrowid
    if cursor.rowcount == 0 or delivery is None:
        return _repeat(connection, arrival)
    if plan is None or repository is None:
        _close(connection, arrival, repository)
        return Receipt(
            accepted=False, duplicate=False, reason=arrival.reason, builds=()
        )
    numbers = _carry_out(connection, arrival, plan, repository, delivery)
    return Receipt(accepted=True, duplicate=False, reason="", builds=numbers)


def _configured(connection: sqlite3.Connection, name: str | None) -> int | None:
    row = connection.execute(
        "SELECT id FROM repositories WHERE name = ?", (name,)
    ).fetchone()
    return None if row is None else int(row["id"])


def _repository(connection: sqlite3.Connection, plan: Plan, known: Known) -> int:
    names = plan.repo, plan.github_id, plan.github_name
    if names not in known:
        known[names] = _recognise(connection, plan)
    return known[names]


def _recognise(connection: sqlite3.Connection, plan: Plan) -> int:
    """Our id of the plan's repository; a write only when GitHub tells something new."""
    row = connection.execute(
        "SELECT id FROM repositories "
        "WHERE name = ? AND github_id = ? AND github_name = ?",
        (plan.repo, plan.github_id, plan.github_name),
    ).fetchone()
    if row is not None:
        return int(row["id"])
    return repositories.remember(
        connection, plan.repo, plan.github_id, plan.github_name
    )


def _repeat(connection: sqlite3.Connection, arrival: Arrival) -> Receipt:
    """The same answer as the first time: the builds of the same commits."""
    row = connection.execute(
        "SELECT accepted, reason, repository_id FROM deliveries "
        "WHERE hook_id = ? AND guid = ?",
        (arrival.hook_id, arrival.guid),
    ).fetchone()
    wanted = arrival.plan.build if arrival.plan else ()
    numbers = queue.numbers(
        connection, row["repository_id"], [commit.sha for commit in wanted]
    )
    return Receipt(
        accepted=bool(row["accepted"]),
        duplicate=True,
        reason=row["reason"],
        builds=tuple(numbers.values()),
    )


def _close(
    connection: sqlite3.Connection, arrival: Arrival, repository: int | None
) -> None:
    """Skip what waits on a branch that was deleted.

    Not when the branch has moved since, as far as we know: the news may be old.
    """
    branch = arrival.deleted
    if branch is None or repository is None:
        return
    newest = watched.newest(connection, repository, branch)
    if newest is None or newest[1] != arrival.before:
        return
    at = arrival.received_at
    endings.branch_deleted(
        connection, repository, branch, at=at, context=arrival.context
    )
    gone = watched.Watched(watched.GONE, "")
    watched.seen(connection, repository, branch, gone, at=at)


def _carry_out(
    connection: sqlite3.Connection,
    arrival: Arrival,
    plan: Plan,
    repository: int,
    delivery: int,
) -> tuple[int, ...]:
    """Give each commit its row, and supersede what waits if only heads are wanted."""
    numbers = queue.enqueue(
        connection,
        repository,
        plan.branch,
        plan.commits,
        cause=Cause.PUSH,
        head=plan.head,
        at=arrival.received_at,
        context=plan.context,
        reasons=plan.reasons,
        delivery=delivery,
        successor=_successor(connection, repository, arrival),
        before=arrival.before,
    )
    built = tuple(
        number
        for number, commit in zip(numbers, plan.commits, strict=True)
        if commit.sha not in plan.reasons
    )
    if plan.policy == "latest" and built:
        endings.supersede(
            connection,
            repository,
            plan.branch,
            at=arrival.received_at,
            context=plan.context,
        )
    return built


def _successor(
    connection: sqlite3.Connection, repository: int, arrival: Arrival
) -> int | None:
    """The delivery that continues this one and overtook it on the way, if any.

    None for a force push: back to an old commit, what once continued from there is older.
    """
    if arrival.forced:
        return None
    row = connection.execute(
        "SELECT id FROM deliveries WHERE repository_id = ? AND ref = ? "
        "AND before_sha = ? AND accepted = 1 ORDER BY id LIMIT 1",
        (repository, arrival.ref, arrival.after),
    ).fetchone()
    return None if row is None else int(row["id"])
