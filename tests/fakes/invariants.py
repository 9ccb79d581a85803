"""What must hold whatever happened: the promises, read from the rows and from GitHub.

`check` is for the end of a test of faults, when all is healed: nothing that was
acknowledged is missing, every build ended once and says why, GitHub shows what the
history says, and no process is left. The sentences name everything that is wrong.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from ci.history.paths import database_path
from ci.models import BuildState, StatusState, status_state
from tests.end_to_end.server import Server, World, marked_processes
from tests.fakes.github import FakeGitHub, Status
from tests.fakes.waiting import PATIENCE, wait_until

CONTEXT = "build-server"
# Why an outbox row counts as sent though GitHub may never have had it.
SUPERSEDED = "superseded while being sent"
# Clocks of a process that was killed and of the next one: milliseconds, rounded twice.
ROUNDING = 2

Problems = Iterator[str]


async def check(
    world: World,
    server: Server,
    github: FakeGitHub,
    *,
    acknowledged: Collection[str] | None = None,
    patience: float = PATIENCE,
) -> None:
    """Raise AssertionError unless every promise is kept within `patience` seconds.

    `acknowledged` are the GUIDs that were answered 202; by default all that went through
    `Server.deliver`. The server may be stopped already: then nothing is waited for.
    """
    told = world.acknowledged if acknowledged is None else acknowledged

    async def wrong() -> list[str]:
        left = await marked_processes(world.state_dir)
        found = await asyncio.to_thread(broken, world.state_dir, github.taken, told)
        return [*found, *(f"process {pid} of a build is left" for pid in left)]

    async def kept() -> bool:
        return not await wrong()

    running = server.process.returncode is None
    try:
        await wait_until(kept, patience if running else 0, what="every promise kept")
    except AssertionError:
        raise AssertionError("\n".join(await wrong())) from None


def history(state_dir: Path) -> sqlite3.Connection:
    """The history, read only: it never checkpoints for the server."""
    path = database_path(state_dir)
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)
    connection.row_factory = sqlite3.Row
    return connection


def broken(
    state_dir: Path, taken: Sequence[Status], acknowledged: Collection[str]
) -> list[str]:
    """Every promise that the history, at rest, does not keep."""
    with closing(history(state_dir)) as connection:
        connection.execute("BEGIN")
        return [
            *unrecorded(connection, acknowledged),
            *(problem for look in LOOKS for problem in look(connection)),
            *_untold(connection, taken),
        ]


def unrecorded(
    connection: sqlite3.Connection, acknowledged: Collection[str]
) -> Problems:
    """Deliveries that were answered 202 and are not in the history."""
    rows = connection.execute("SELECT guid FROM deliveries")
    recorded = {row["guid"] for row in rows}
    for guid in sorted(set(acknowledged) - recorded):
        yield f"the delivery {guid} was acknowledged and is not in the history"


def _unexplained(connection: sqlite3.Connection) -> Problems:
    """Each delivery ended as a build or as a reason."""
    for row in connection.execute(
        "SELECT d.* FROM deliveries d WHERE CASE accepted WHEN 1 THEN NOT EXISTS ("
        "  SELECT 1 FROM builds b WHERE b.repository_id = d.repository_id "
        "  AND b.sha = d.after_sha) ELSE reason = '' END"
    ):
        yield f"the delivery {row['guid']} has neither a build nor a reason"


def _unfinished(connection: sqlite3.Connection) -> Problems:
    """Each build ended, in one state, and says why unless it succeeded."""
    for row in connection.execute("SELECT * FROM builds"):
        name = f"build #{row['number']} ({row['state']})"
        if not BuildState(row["state"]).final:
            yield f"{name} has not ended"
        elif row["finished_at"] is None:
            yield f"{name} has no time of its end"
        elif not row["summary"]:
            yield f"{name} does not say why"


def _unanswered(connection: sqlite3.Connection) -> Problems:
    """Nothing waits: no request, no status."""
    for row in connection.execute("SELECT * FROM requests WHERE answered_at IS NULL"):
        yield f"the {row['kind']} {row['id']} was not answered"
    for row in connection.execute(
        "SELECT * FROM outbox WHERE sent_at IS NULL AND dead = 0"
    ):
        yield f"{row['state']} of build #{row['build']} was not sent: {row['error']}"


def attempts(connection: sqlite3.Connection) -> Problems:
    """Attempts of a build follow each other: numbered 1, 2, … and never two at once."""
    rows = connection.execute("SELECT * FROM attempts ORDER BY build, number")
    of: dict[int, list[sqlite3.Row]] = {}
    for row in rows:
        of.setdefault(row["build"], []).append(row)
    for build in connection.execute("SELECT * FROM builds"):
        tries, name = of.pop(build["number"], []), f"build #{build['number']}"
        if [row["number"] for row in tries] != list(range(1, build["attempt"] + 1)):
            yield f"{name} began {build['attempt']} attempts, recorded: {len(tries)}"
        for earlier, later in pairwise(tries):
            if (
                earlier["finished_at"] is None
                or earlier["finished_at"] > later["started_at"] + ROUNDING
            ):
                yield f"{name}: attempt {later['number']} began before the last ended"
        running = sum(row["finished_at"] is None for row in tries)
        if running != (build["state"] == BuildState.RUNNING):
            yield f"{name} is {build['state']} with {running} attempts unfinished"
        if build["state"] in (BuildState.SUCCEEDED, BuildState.FAILED) and (
            not tries or tries[-1]["outcome"] != build["state"]
        ):
            yield f"{name} is {build['state']}, which no attempt says"
    for number in of:
        yield f"attempts of build #{number}, which does not exist"


def miscounted_days(connection: sqlite3.Connection) -> Problems:
    """What triggers have counted for each day is what the builds say now."""
    real = (
        "SELECT repository_id, '' AS branch, kind, day, value, sum(n) AS n "
        "FROM build_days GROUP BY repository_id, kind, day, value UNION ALL "
        "SELECT d.repository_id, c.branch, d.kind, d.day, d.value, sum(d.n) "
        "FROM branch_commits c JOIN build_days d ON d.build = c.build "
        "GROUP BY d.repository_id, c.branch, d.kind, d.day, d.value"
    )
    for what, sql in {
        "counted, but not so": f"SELECT * FROM days EXCEPT SELECT * FROM ({real})",  # noqa: S608 — literals
        "not counted": f"SELECT * FROM ({real}) EXCEPT SELECT * FROM days",  # noqa: S608 — literals
    }.items():
        for row in connection.execute(sql):
            yield f"a day's number is {what}: {tuple(row)}"


def _miscounted(connection: sqlite3.Connection) -> Problems:
    """Counters, keys and pages agree with the rows."""
    yield from miscounted_days(connection)
    for row in connection.execute(
        "SELECT c.repository_id, c.state, c.n, (SELECT count(*) FROM builds b "
        "WHERE b.repository_id = c.repository_id AND b.state = c.state) AS real "
        "FROM build_counts c WHERE c.n <> real"
    ):
        yield f"{row['n']} builds counted as {row['state']}, there are {row['real']}"
    for row in connection.execute("PRAGMA foreign_key_check"):
        yield f"a row of {row['table']} refers to nothing in {row['parent']}"
    for (said,) in connection.execute("PRAGMA quick_check"):
        # SQLite 3.40 sees NULL where a table WITHOUT ROWID has its columns in another
        # order than its key.
        if said != "ok" and not said.startswith("NULL value in "):
            yield f"the database is damaged: {said}"


LOOKS: tuple[Callable[[sqlite3.Connection], Problems], ...] = (
    _unexplained,
    _unfinished,
    _unanswered,
    attempts,
    _miscounted,
)


def _untold(connection: sqlite3.Connection, taken: Sequence[Status]) -> Problems:
    """GitHub's last word on each (commit, context) is ours, unless it refused it."""
    shown = {
        (status.repo.lower(), status.sha, status.context.lower()): status.state
        for status in taken
    }
    said = {
        (row["build"], row["context"].lower()): row
        for row in connection.execute("SELECT * FROM outbox ORDER BY id")
        if row["error"] != SUPERSEDED
    }
    refused = {
        row["build"]: row["error"]
        for row in connection.execute("SELECT * FROM outbox WHERE dead = 1")
    }
    for build in connection.execute(
        "SELECT b.*, coalesce(r.github_name, r.name) AS repo "
        "FROM builds b JOIN repositories r ON r.id = b.repository_id"
    ):
        number, key = build["number"], (build["repo"].lower(), build["sha"])
        if number in refused:
            continue
        was = shown.get((*key, CONTEXT))
        wanted = status_state(
            BuildState(build["state"]), pending_posted=was is not None
        )
        # A verdict of an earlier attempt stays where nothing was announced after it.
        silent = build["state"] == BuildState.SKIPPED and was != StatusState.PENDING
        if was != wanted and not silent:
            yield (
                f"build #{number} is {build['state']}; GitHub shows {was}, not {wanted}"
            )
        for (of, context), row in said.items():
            if of == number and shown.get((*key, context)) != row["state"]:
                yield f"{context} of build #{number} is {row['state']} only in our rows"
