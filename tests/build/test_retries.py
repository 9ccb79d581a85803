"""How often, and how far apart, an attempt without a verdict is followed by another."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ci.adapters.git import Mirror
from ci.build.retries import ATTEMPTS, DELAYS, WAITS, Retries
from ci.build.verdict import Ended, decide
from ci.errors import BuildInterrupted, DaemonDown, DiskFull, NetworkDown, RemoteDown
from ci.history import queue, repositories, states
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import BuildState, Cause, Commit
from tests.fakes.repository import Origin

CONTEXT = "build-server"
DAY = 86_400_000


def begin(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO instances (boot_id, pid, pid_start, started_at) VALUES ('b',1,1,0)"
    )


async def enqueue(database: Database, *shas: str) -> None:
    repository = await database.write(repositories.identify, "owner/name")
    commits = [Commit(sha, "a change", "alice") for sha in shas]
    await database.write(
        queue.enqueue,
        repository,
        "dev",
        commits,
        cause=Cause.PUSH,
        head=shas[-1],
        at=0,
        context=CONTEXT,
    )


async def claim(database: Database, at: int) -> Claimed:
    claimed = await database.write(queue.claim, instance=1, at=at, context=CONTEXT)
    assert claimed is not None
    return claimed


async def put_back(
    database: Database, claimed: Claimed, ended: Ended, at: int, delay: float
) -> None:
    assert ended.retry is not None
    await database.write(
        states.requeue,
        claimed.number,
        reason=ended.summary,
        counted=ended.retry.counted,
        waited=ended.retry.waited,
        not_before=at + int(delay * 1000),
        at=at,
        seconds=1.0,
    )


async def tries(database: Database, ended: Ended, every: int) -> list[float]:
    """The delays after each attempt that ends like that, until there is no other."""
    await database.write(begin)
    await enqueue(database, "a" * 40)
    retries, at = Retries(database), 0
    delays: list[float] = []
    while True:
        claimed = await claim(database, at)
        delay = await retries.after(claimed, ended, at)
        if delay is None or len(delays) > 2 * WAITS:
            return delays
        delays.append(delay)
        await put_back(database, claimed, ended, at, delay)
        at += max(every, int(delay * 1000))


async def test_three_faults_of_ours_are_enough(database: Database) -> None:
    delays = await tries(database, decide(DiskFull("full"), ()), every=0)
    assert delays == list(DELAYS[: ATTEMPTS - 1])


async def test_what_others_must_put_right_is_waited_for_a_day_at_least(
    database: Database,
) -> None:
    ended = decide(NetworkDown("the server of an input is down"), ())
    delays = await tries(database, ended, every=0)
    assert delays[:5] == list(DELAYS)
    assert set(delays[4:]) == {DELAYS[-1]}
    assert len(delays) >= WAITS - 1
    assert sum(delays) >= DAY / 1000
    # And not much longer.
    assert sum(delays) <= DAY / 1000 + 3 * DELAYS[-1]


async def test_rare_tries_are_made_a_hundred_times(database: Database) -> None:
    """A host that is awake for a minute a day has hardly tried."""
    ended = decide(DaemonDown("no daemon"), ())
    assert len(await tries(database, ended, every=DAY)) == WAITS - 1


async def test_a_remote_is_waited_for_as_long_as_it_takes(database: Database) -> None:
    delays = await tries(database, decide(RemoteDown("away"), ()), every=DAY)
    assert len(delays) > 2 * WAITS
    assert delays[:6] == [*DELAYS, DELAYS[-1]]


async def test_a_retry_by_a_person_begins_anew(database: Database) -> None:
    await database.write(begin)
    await enqueue(database, "a" * 40)
    ended = decide(NetworkDown("down"), ())
    retries = Retries(database)
    for at in range(4):
        claimed = await claim(database, at)
        await put_back(database, claimed, ended, at, 0)
    claimed = await claim(database, 5)
    assert await retries.after(claimed, ended, 5) == DELAYS[4]
    await database.write(
        states.finish,
        claimed.number,
        BuildState.ERROR,
        summary="",
        targets=(),
        at=6,
        seconds=0.0,
        context=CONTEXT,
    )
    await database.write(states.reopen, claimed.number, at=10, context=CONTEXT)
    claimed = await claim(database, 11)
    assert await retries.after(claimed, ended, 11) == DELAYS[0]


async def test_our_own_stop_costs_nothing(database: Database) -> None:
    await database.write(begin)
    await enqueue(database, "a" * 40)
    ended = decide(BuildInterrupted("stop"), ())
    assert await Retries(database).after(await claim(database, 0), ended, 0) == 0


async def test_one_asks_the_remote_for_all_that_need_it(
    database: Database, tmp_path: Path
) -> None:
    """What is in the mirror already is built meanwhile."""
    origin = Origin(tmp_path / "origin.git")
    here = origin.commits(2)
    mirror = Mirror(tmp_path / "mirror", origin.url)
    await mirror.fetch_commit(here[-1], 9)
    absent = ["e" * 40, "f" * 40]
    await database.write(begin)
    await enqueue(database, *here, *absent)
    retries, ended = Retries(database), decide(RemoteDown("away"), ())
    claimed = await claim(database, 0)
    assert claimed.sha == absent[-1]
    assert not retries.is_down(claimed.repository)
    delay = await retries.after(claimed, ended, 0)
    assert delay is not None
    assert retries.is_down(claimed.repository)
    assert not retries.check().ok
    await retries.spare(mirror, claimed, int(delay * 1000), ended.summary)
    await put_back(database, claimed, ended, 0, delay)
    now = [(await claim(database, 1)).sha for _ in range(2)]
    assert sorted(now) == sorted(here)
    assert await database.write(queue.claim, instance=1, at=1, context=CONTEXT) is None
    later = [(await claim(database, 10**4)).sha for _ in range(2)]
    assert sorted(later) == absent
    retries.answered(claimed.repository)
    assert retries.check().ok
