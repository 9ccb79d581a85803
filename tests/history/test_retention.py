"""What goes when the history is too long: the oldest, whole, and never what is needed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ci.history import (
    branches,
    builds,
    logs,
    outbox,
    pins,
    queue,
    requests,
    retention,
    states,
)
from ci.history.database import Database
from ci.history.deliveries import Receipt
from ci.models import BuildState, RequestKind, Target
from tests.fakes import history
from tests.fakes.history import CONTEXT, REPO, memory, sha

DEV = ((REPO, "dev"),)
BOTH = (*DEV, (REPO, "main"))
ENDS = (BuildState.SUCCEEDED, BuildState.FAILED, BuildState.ERROR, BuildState.SKIPPED)
STATES = (*ENDS, BuildState.QUEUED, BuildState.RUNNING)


def settle(
    connection: sqlite3.Connection,
    number: int,
    state: BuildState,
    *,
    at: int,
    told: bool = True,
) -> None:
    """Put a queued build into `state`, with a row in every table that knows builds."""
    connection.execute(
        "UPDATE builds SET state = ?, attempt = 1, finished_at = ? WHERE number = ?",
        (state, at if state.final else None, number),
    )
    connection.execute(
        "INSERT INTO attempts (build, number, instance_id, started_at, finished_at) "
        "VALUES (?, 1, 1, 0, ?)",
        (number, at if state.final else None),
    )
    connection.execute(
        "INSERT INTO targets (build, name, position, state) VALUES (?, 'x', 0, ?)",
        (number, state),
    )
    connection.execute(
        "INSERT INTO derivations VALUES (?, 1, 'path', '', 0, 1, '[]', 0)", (number,)
    )
    asked = requests.ask(
        connection, RequestKind.RETRY, asked_by="Ada", at=0, build=number
    )
    requests.answer(connection, asked, at=1, answer={"build": number})
    if told:
        connection.execute(
            "UPDATE outbox SET sent_at = ? WHERE build = ?", (at, number)
        )


def trim(connection: sqlite3.Connection, limit: int) -> list[int]:
    """What the upkeep does; returns the numbers that went."""
    before = numbers(connection)
    spared = retention.kept(connection, BOTH)
    over = retention.excess(connection, limit)
    found = retention.old_builds(connection, spared, over)
    while found:
        found = found[len(retention.remove_builds(connection, found, BOTH)) :]
    return sorted(before - numbers(connection))


def numbers(connection: sqlite3.Connection) -> set[int]:
    return {row["number"] for row in connection.execute("SELECT number FROM builds")}


@st.composite
def histories(draw: st.DrawFn) -> sqlite3.Connection:
    """Builds on two branches, ended in any order, some pinned, some not told yet."""
    connection = memory()
    count = draw(st.integers(1, 14))
    ends = draw(st.permutations(range(count)))
    for index in range(count):
        branch = draw(st.sampled_from(["dev", "dev", "main", None]))
        (number,) = history.enqueue(connection, index + 1, branch=branch)
        state = draw(st.sampled_from(STATES))
        told = draw(st.integers(0, 4)) > 0
        settle(connection, number, state, at=ends[index] + 1, told=told)
        if draw(st.integers(0, 5)) == 0:
            pins.pin(connection, number, by="Ada", at=1)
    return connection


@settings(max_examples=120, deadline=None)
@given(connection=histories(), limit=st.integers(0, 8))
def test_the_oldest_go_and_what_is_needed_stays(
    connection: sqlite3.Connection, limit: int
) -> None:
    needed = set(pins.numbers(connection)) | _open(connection)
    for repo, branch in BOTH:
        for state in ("newest", "verdict", "green"):
            needed |= _top(connection, repo, branch, state)
    total = len(numbers(connection))
    ended = dict(connection.execute("SELECT number, finished_at FROM builds"))

    gone = trim(connection, limit)

    left = numbers(connection)
    assert needed <= left
    assert len(gone) == min(max(0, total - limit), total - len(needed))
    others = [ended[number] for number in left - needed]
    assert not gone or not others or max(ended[n] for n in gone) < min(others)
    _consistent(connection, gone)


def _open(connection: sqlite3.Connection) -> set[int]:
    """Builds that wait or run, and those whose status GitHub has not got."""
    rows = connection.execute(
        "SELECT number FROM builds WHERE state IN ('queued', 'running') "
        "UNION SELECT build FROM outbox WHERE sent_at IS NULL AND dead = 0"
    )
    return {row["number"] for row in rows}


def _top(
    connection: sqlite3.Connection, repo: str, branch: str, which: str
) -> set[int]:
    """Written once more, in another way: by walking down the branch."""
    for row in connection.execute(
        "SELECT build, state FROM branch_commits c JOIN builds b ON b.number = c.build "
        "WHERE c.branch = ? ORDER BY position DESC",
        (branch,),
    ):
        wanted = {
            "newest": set(BuildState),
            "verdict": set(ENDS) - {BuildState.SKIPPED},
            "green": {BuildState.SUCCEEDED},
        }[which]
        if BuildState(row["state"]) in wanted:
            return {row["build"]}
    return set()


def _consistent(connection: sqlite3.Connection, gone: list[int]) -> None:
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    counted = {key[1]: n for key, n in builds.counts(connection).items() if n}
    real = connection.execute("SELECT state, count(*) FROM builds GROUP BY state")
    assert counted == dict(real)
    left = [number for number, _ in retention.removed_builds(connection)]
    assert left == gone
    for table, column in _referring(connection, "builds"):
        rows = connection.execute(f"SELECT {column} AS n FROM {table}")  # noqa: S608 — of the schema
        assert not {row["n"] for row in rows} & set(gone), table


def _referring(
    connection: sqlite3.Connection, parent: str
) -> Iterator[tuple[str, str]]:
    """(table, column) of every foreign key to `parent`."""
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    for row in names.fetchall():
        for key in connection.execute(f"PRAGMA foreign_key_list({row['name']})"):
            if key["table"] == parent:
                yield row["name"], key["from"]


def test_every_table_that_knows_builds_is_thought_of() -> None:
    connection = memory()
    known = {*retention.OF_BUILD, "pins"}
    assert {table for table, _ in _referring(connection, "builds")} == known


def test_what_has_changed_since_it_was_chosen_stays() -> None:
    connection = memory()
    for index in range(1, 6):
        (number,) = history.enqueue(connection, index)
        settle(connection, number, BuildState.SUCCEEDED, at=index)
    chosen = retention.old_builds(connection, {5}, 4)
    assert chosen == [1, 2, 3, 4]
    pins.pin(connection, 1, by="Ada", at=1)
    requests.ask(connection, RequestKind.RETRY, asked_by="Ada", at=1, build=2)
    # A force push back to the third commit: it is the branch's newest again.
    branches.place(connection, 1, "dev", [3])
    retention.remove_builds(connection, chosen, DEV)
    assert numbers(connection) == {1, 2, 3, 5}


def test_a_transaction_ends_in_time_however_much_there_is() -> None:
    connection = memory()
    for index in range(1, 12):
        (number,) = history.enqueue(connection, index)
        settle(connection, number, BuildState.FAILED, at=index)
    ticks = itertools.count(0, retention.AT_MOST / 3)
    chosen = retention.old_builds(connection, (), 10)
    done = retention.remove_builds(connection, chosen, DEV, clock=lambda: next(ticks))
    assert done == chosen[:4]
    assert numbers(connection) == {5, 6, 7, 8, 9, 10, 11}


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """It walks through all that pytest holds, in whichever thread it comes to pass."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
async def test_pushes_wait_for_no_removal(database: Database) -> None:
    """While 3000 builds with 30 derivations each go, it comes in between every 50 ms.

    Counted is the work that a push waits behind, for it comes next; what the disk and the
    other processes of this machine take is not ours.
    """
    await database.write(_fill, 3000)
    worked: list[float] = []

    def remove(connection: sqlite3.Connection, found: list[int]) -> list[int]:
        begun = time.thread_time()
        done = retention.remove_builds(connection, found, DEV)
        worked.append(time.thread_time() - begun)
        return done

    over, pushed = 2900, itertools.count(5001)
    while over:
        found = await database.read(
            retention.old_builds, frozenset(), min(over, retention.BATCH)
        )
        over -= len(found)
        while found:
            done, _ = await asyncio.gather(
                database.write(remove, found), database.write(_push, next(pushed))
            )
            found = found[len(done) :]
    assert max(worked) < 0.05, f"{max(worked) * 1000:.0f} ms"
    assert await database.read(retention.excess, 0) < 3100


def _push(connection: sqlite3.Connection, number: int) -> Receipt:
    return history.push(connection, number - 1, number)


def _fill(connection: sqlite3.Connection, count: int) -> None:
    connection.execute(
        "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
        "VALUES ('boot', 1, 1, 0)"
    )
    for index in range(1, count + 1):
        (number,) = history.enqueue(connection, index)
        settle(connection, number, BuildState.FAILED, at=index)
        connection.executemany(
            "INSERT INTO derivations VALUES (?, 1, ?, '', 0, 1, '[]', 0)",
            [(number, f"/nix/store/{index:032d}-{n}.drv") for n in range(30)],
        )


def test_the_file_does_not_grow_for_ever(tmp_path: Path) -> None:
    """Free pages are used again: after some rounds the size stays."""
    connection = memory()
    path, sizes = tmp_path / "copy.db", []
    commits = itertools.count(1)
    for _ in range(9):
        index = 0
        for index in itertools.islice(commits, 150):
            receipt = history.push(connection, index - 1, index)
            settle(connection, receipt.builds[0], BuildState.FAILED, at=index)
            connection.execute(
                "UPDATE deliveries SET received_at = ? WHERE id = ?", (index, index)
            )
        trim(connection, 100)
        _remove_told(connection, index - 100)
        connection.execute("DELETE FROM removed_builds")
        sizes.append(connection.execute("PRAGMA page_count").fetchone()[0])
    connection.execute("VACUUM INTO ?", (str(path),))
    assert sizes[-1] <= sizes[4] * 1.02, sizes
    assert connection.execute("SELECT count(*) FROM events").fetchone()[0] < 2200
    assert len(numbers(connection)) == 100


def _remove_told(connection: sqlite3.Connection, before: int) -> None:
    while ids := retention.old_deliveries(connection, before):
        retention.remove_deliveries(connection, ids)
    while ids := retention.old_statuses(connection, before):
        retention.remove_statuses(connection, ids)
    for remove in (
        retention.remove_answered,
        retention.remove_missed,
        retention.remove_instances,
    ):
        while remove(connection, before) == retention.BATCH:
            pass


# Deliveries and what is known by them


def _receive(connection: sqlite3.Connection, delivery: int, at: int) -> None:
    connection.execute(
        "UPDATE deliveries SET received_at = ? WHERE id = ?", (at, delivery)
    )


def test_deliveries_go_and_their_builds_stay() -> None:
    connection = memory()
    for index in range(1, 6):
        (number,) = history.push(connection, index - 1, index).builds
        settle(connection, number, BuildState.FAILED, at=index)
        _receive(connection, index, index)
    connection.execute(
        "INSERT INTO deliveries (hook_id, guid, event, received_at, body_sha256, "
        "repository_id, ref, accepted, reason) "
        "VALUES ('1', 'tag', 'push', 2, '', 1, 'refs/tags/v1', 0, 'a tag')"
    )
    _remove_told(connection, 1_000_000)
    left = [row["id"] for row in connection.execute("SELECT id FROM deliveries")]
    assert left == [5], "the last accepted one of each ref stays"
    rows = connection.execute("SELECT delivery_id FROM builds ORDER BY number")
    assert [row["delivery_id"] for row in rows] == [None] * 4 + [5]
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_gap_is_found_where_it_was_when_old_deliveries_have_gone() -> None:
    connection = memory()
    history.push(connection, 0, 1, 2)
    history.push(connection, 2, 3)
    # Pushes of 4 and 5 never came; then 6 and 7 together.
    (_, head) = history.push(connection, 5, 6, 7).builds
    before = branches.gap_begins(connection, head, sha(5))
    for number in (1, 2, 3):
        settle(connection, number, BuildState.SUCCEEDED, at=1)
    assert retention.old_deliveries(connection, 1_000_000) == []
    for delivery in (1, 2):
        _receive(connection, delivery, 0)
    assert retention.old_deliveries(connection, 1) == [1, 2]
    retention.remove_deliveries(connection, [1, 2])
    assert branches.gap_begins(connection, head, sha(5)) == before == sha(3)


def test_a_force_push_is_remembered_while_a_build_waits_that_it_may_concern() -> None:
    connection = memory()
    history.push(connection, 0, 1)
    history.push(connection, 1, 2, forced=True)
    history.push(connection, 2, 3)
    settle(connection, 2, BuildState.SUCCEEDED, at=5)
    settle(connection, 3, BuildState.SUCCEEDED, at=5)
    assert branches.pushed_away(connection, 1)
    _remove_told(connection, 1_000_000)
    assert branches.pushed_away(connection, 1)
    claimed = queue.claim(connection, instance=1, at=10, context=CONTEXT)
    assert claimed is not None
    assert (claimed.number, claimed.before) == (1, sha(0))


def test_a_failing_target_is_remembered_until_it_is_mended() -> None:
    connection = memory()
    (number,) = history.push(connection, 0, 1).builds
    bad = Target("checks.web", BuildState.FAILED, error="no")
    _attempt(connection, number, BuildState.FAILED, bad)
    connection.execute("UPDATE outbox SET sent_at = 3")
    _remove_told(connection, 1_000_000)
    kept = connection.execute("SELECT context, state FROM outbox").fetchall()
    assert [tuple(row) for row in kept] == [(f"{CONTEXT}/checks.web", "failure")]
    states.reopen(connection, number, at=6, context=CONTEXT)
    good = Target("checks.web", BuildState.SUCCEEDED)
    _attempt(connection, number, BuildState.SUCCEEDED, good)
    told = {}
    while item := outbox.begin(connection, 10):
        outbox.sent(connection, item.id, 10)
        told[item.context] = item.state
    assert told == {CONTEXT: "success", f"{CONTEXT}/checks.web": "success"}


def _attempt(
    connection: sqlite3.Connection, number: int, state: BuildState, *targets: Target
) -> None:
    claimed = queue.claim(connection, instance=1, at=2, context=CONTEXT)
    assert claimed is not None
    states.finish(
        connection,
        number,
        state,
        summary="",
        targets=targets,
        at=3,
        seconds=1.0,
        context=CONTEXT,
    )


def test_runs_of_the_server_go_when_no_attempt_is_theirs() -> None:
    connection = memory()
    (number,) = history.enqueue(connection, 1)
    settle(connection, number, BuildState.FAILED, at=1)
    for _ in range(3):
        connection.execute(
            "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
            "VALUES ('boot', 1, 1, 0)"
        )
    assert retention.remove_instances(connection, 1) == 2
    rows = connection.execute("SELECT id FROM instances")
    assert [row["id"] for row in rows] == [1, 4], "an attempt's, and the present one"


# Logs


def test_logs_that_may_go() -> None:
    connection = memory()
    for index in range(1, 8):
        (number,) = history.enqueue(connection, index)
        state = BuildState.QUEUED if index == 3 else BuildState.FAILED
        settle(connection, number, state, at=100 - index)
    connection.executemany(
        "INSERT INTO attempts (build, number, instance_id, started_at) "
        "VALUES (3, ?, 1, 0)",
        [(number,) for number in range(2, 7)],
    )
    connection.execute("UPDATE builds SET attempt = 6 WHERE number = 3")
    connection.execute("UPDATE attempts SET finished_at = number WHERE build = 3")
    pins.pin(connection, 2, by="Ada", at=1)
    found = _measure(connection)
    assert len(found) == 12
    assert logs.unmeasured(connection) == []
    assert logs.total(connection) == 120
    may_go = logs.old_logs(connection, {7})
    tries = [(3, 1), (3, 2), (3, 3)]
    assert [(log.build, log.attempt) for log in may_go] == [
        *tries,
        *((number, 1) for number in (6, 5, 4, 1)),
    ]
    pins.pin(connection, 1, by="Ada", at=1)
    going = logs.condemn(connection, may_go, {7}, "on a whim")
    assert going == may_go[:-1]
    assert logs.condemned(connection) == going
    logs.measured(connection, [(0, log.build, log.attempt) for log in going])
    assert (logs.condemned(connection), logs.total(connection)) == ([], 60)
    assert logs.why_removed(connection, 6, 1) == "on a whim"
    assert logs.why_removed(connection, 7, 1) is None


def _measure(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    found = logs.unmeasured(connection)
    logs.measured(connection, [(10, build, attempt) for build, attempt in found])
    return found


@pytest.mark.parametrize(
    ("rows", "latest"),
    [
        ("", None),
        ("UPDATE builds SET finished_at = 9", 9),
        ("UPDATE deliveries SET received_at = 8", 8),
        ("INSERT INTO instances (boot_id, pid, pid_start, started_at) "
         "VALUES ('b', 1, 1, 70)", None),
    ],
)  # fmt: skip
def test_time_is_told_by_what_happened_here_before_this_start(
    rows: str, latest: int | None
) -> None:
    connection = memory()
    if latest is None:
        connection.execute("DELETE FROM instances")
    else:
        history.push(connection, 0, 1)
    if rows:
        connection.execute(rows)
    assert retention.last_seen(connection) == latest
