"""The loop that looks: when, how often, what it says, and what it never lets wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.github import GitHub, Token
from ci.adapters.host import Clocks, SleepWatch, read_clocks
from ci.adapters.metrics import Metrics
from ci.config import parse
from ci.errors import NetworkDown
from ci.history import queue, states, watched
from ci.history.database import Database
from ci.intake.look import Look
from ci.intake.reconcile import Reconcile
from ci.intake.visits import Pace, Visits
from ci.models import Check
from ci.wake import Wake
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.history import enqueue, memory
from tests.fakes.push import REPO, ZERO, make_commit, make_push
from tests.fakes.waiting import wait_until
from tests.intake.edge import running_edge
from tests.intake.town import CONTEXT, NOWHERE, Remote, Town

QUICK = Pace(tick=0.02, retry=0.1, grace=0.0, fresh=0.0, redelivery=0.0)
OFTEN = {"reconcile_every": "50ms", "api_url": NOWHERE}
RARELY = {"reconcile_every": "1h", "api_url": NOWHERE}


@dataclass
class Watcher:
    """A running loop over the repositories of a town, and its bell."""

    loop: Reconcile
    wake: Wake
    woken: list[float] = field(default_factory=list)

    def check(self, name: str) -> Check | None:
        return next((each for each in self.loop.checks() if each.name == name), None)

    async def says(self, name: str, text: str, *, ok: bool) -> Check:
        def said() -> Check | None:
            check = self.check(name)
            return check if check and check.ok is ok and text in check.detail else None

        found = await wait_until(said, what=f"{name}: {text} ({self.loop.checks()})")
        assert found is not None
        return found


@asynccontextmanager
async def watching(
    town: Town,
    mirrors: Mapping[str, Remote] | None = None,
    github: GitHub | None = None,
    watch: SleepWatch | None = None,
    pace: Pace = QUICK,
) -> AsyncIterator[Watcher]:
    wake, woken = Wake(), list[float]()
    client = github or GitHub(NOWHERE, lambda: None)
    loop = Reconcile(
        town.database,
        town.settings,
        (mirrors or {REPO: town.mirror}).__getitem__,
        client,
        wake,
        on_return=woken.append,
        watch=watch,
        pace=pace,
    )
    task = asyncio.create_task(loop.run())
    try:
        yield Watcher(loop, wake, woken)
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


async def built(town: Town, sha: str) -> None:
    async def there() -> bool:
        return sha in [build.sha for build in await town.builds()]

    await wait_until(there, what=f"a build of {sha[:7]}")


@asynccontextmanager
async def real_github() -> AsyncIterator[tuple[FakeGitHub, GitHub]]:
    async with FakeGitHub() as server:
        yield server, GitHub(server.url, lambda: Token(TOKEN))


async def test_at_the_start_and_ever_again(database: Database, tmp_path: Path) -> None:
    town = await Town(database, tmp_path, github=OFTEN).open()
    first = await town.commit("first")
    async with watching(town) as watcher:
        await built(town, first)
        await built(town, await town.commit("second"))
        said = await watcher.says("reconcile", "1 repository is as the remote", ok=True)
        assert said.fix == ""
        metrics = Metrics("0")
        watcher.loop.measured_by(metrics)
        exposition = await asyncio.to_thread(
            metrics.exposition, builds={}, backlog=0, followers=0
        )
        assert b"build_server_missed_deliveries 0.0" in exposition


async def test_a_branch_that_the_remote_does_not_have_is_told(
    database: Database, tmp_path: Path
) -> None:
    """Most likely its name is wrong in the configuration: nothing would ever be built."""
    town = await Town(database, tmp_path, github=OFTEN).open()
    first = await town.commit("first")
    table = {"name": REPO, "url": town.origin.url, "branches": ["man", "release"]}
    town.settings = parse({"github": OFTEN, "repository": [table]})
    async with watching(town) as watcher:
        said = await watcher.says(
            "reconcile", f"{REPO} has no branch man or release", ok=False
        )
        assert "`branches`" in said.fix
        # One that is there is enough: the other may come later.
        await asyncio.to_thread(town.origin.git, "branch", "release", "dev")
        said = await watcher.says("reconcile", f"{REPO} has no branch man", ok=True)
        assert "as the remote shows it" in said.detail
        await built(town, first)
        await asyncio.to_thread(town.origin.git, "branch", "-D", "release")
        await watcher.says("reconcile", "has no branch man or release", ok=False)


async def test_never_means_that_nothing_is_asked(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github={"reconcile_every": "never"}).open()
    await town.commit("first")
    async with watching(town) as watcher:
        (check,) = watcher.loop.checks()
        assert (check.ok, "never" in check.detail) == (True, True)
        await asyncio.sleep(0)
        assert town.mirror.times == 0
    assert await town.builds() == []


async def test_a_remote_that_hangs_or_fails_delays_nobody_else(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    others = [{"name": f"octo-org/{name}"} for name in ("hangs", "fails")]
    table = {"name": REPO, "url": town.origin.url}
    town.settings = parse({"github": RARELY, "repository": [table, *others]})
    mirrors = {
        REPO: town.mirror,
        "octo-org/hangs": Remote(tmp_path / "hangs", town.origin.url),
        "octo-org/fails": Remote(tmp_path / "fails", str(tmp_path / "nothing")),
    }
    mirrors["octo-org/hangs"].answers.clear()
    sha = await town.commit("found")
    pace = Pace(tick=0.02, retry=0.1, slow=0.05)
    async with watching(town, mirrors, pace=pace) as watcher:
        await built(town, sha)

        def told() -> bool:
            check = watcher.check("reconcile")
            assert check is not None
            others = ("octo-org/hangs: no answer", "octo-org/fails: ")
            there = all(other in check.detail for other in others)
            return not check.ok and there and REPO not in check.detail

        await wait_until(told, what="two of three repositories in trouble")
        copy = tmp_path / "copy"
        clone = ("clone", "--quiet", "--bare", ".", str(copy))
        await asyncio.to_thread(town.origin.git, *clone)
        copy.rename(tmp_path / "nothing")
        mirrors["octo-org/hangs"].answers.set()
        await watcher.says("reconcile", "3 repositories are", ok=True)
    assert {build.repo for build in await town.builds()} == set(mirrors)


class Sleeper:
    """Clocks of a machine that can be put to sleep."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.looks = 0

    def read(self) -> Clocks:
        self.looks += 1
        now = read_clocks()
        return Clocks(now.wall + self.slept, now.running, now.since_boot + self.slept)


async def test_on_wake_everything_is_looked_at_and_what_waits_is_due(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    clocks = Sleeper()
    waits = await town.commit("waits for the network")
    async with watching(town, watch=SleepWatch(clocks.read)) as watcher:
        await built(town, waits)
        await watcher.says("reconcile", "as the remote shows it", ok=True)
        await database.write(_wait_for_network)
        missed = await town.commit("missed")
        clocks.slept += 3600
        await built(town, missed)
        # It was told with what passed from one look to the next.
        assert watcher.woken == [pytest.approx(3600, abs=60)]

        async def due() -> bool:
            rows = await town.rows("SELECT not_before FROM builds WHERE sha = ?", waits)
            return rows == [{"not_before": 0}]

        await wait_until(due, what="a build that is due")
        # Found after sleep: GitHub may well have told, and could not reach us.
        await watcher.says("webhook", "no push was found", ok=True)
        assert await database.read(watched.unannounced) == []
        clocks.slept -= 1800
        await town.commit("not looked for: a clock set back is no sleep")
        looks = clocks.looks
        await wait_until(lambda: clocks.looks > looks + 1, what="a look at the clocks")
        assert len(watcher.woken) == 1


class Unanswered(Remote):
    """A mirror whose first question nobody ever answers."""

    async def remote_refs(self, branches: Sequence[str]) -> dict[str, str]:
        if self.times == 0:
            self.times = 1
            await asyncio.Event().wait()
        return await super().remote_refs(branches)


async def test_what_the_host_slept_through_is_asked_anew(
    database: Database, tmp_path: Path
) -> None:
    """At the other end nobody knows of its connection any more."""
    town = await Town(database, tmp_path, github=RARELY).open()
    town.mirror = Unanswered(tmp_path / "unanswered", town.origin.url)
    clocks = Sleeper()
    missed = await town.commit("missed")
    async with watching(town, watch=SleepWatch(clocks.read)) as watcher:
        await wait_until(lambda: town.mirror.times == 1, what="a question")
        clocks.slept += 3600
        await built(town, missed)
        await watcher.says("reconcile", "as the remote shows it", ok=True)


async def test_a_host_that_wakes_without_its_network_looks_again_soon() -> None:
    """Long pauses are for a remote that is away for long, and sleep makes them untrue."""
    looks: list[float] = []

    class NoNetwork(Look):
        def __init__(self) -> None:
            """It has nothing to look at."""
            self.stirred = asyncio.Event()

        async def __call__(self, *, alarm: Callable[[], bool]) -> bool:
            looks.append(time.monotonic())
            raise NetworkDown("no network")

    visits = Visits(REPO, NoNetwork(), None, 3600, Pace(retry=0.01))
    task = asyncio.create_task(visits.run(lambda: None, lambda again: None))
    try:
        # The last pause was 0.64 s, the next is twice as long, and so on.
        await wait_until(lambda: len(looks) == 8, what="eight looks in vain")
        visits.stir()
        await wait_until(lambda: len(looks) >= 12, what="looks after waking")
        # Pauses that went on growing would be of 2.56 s, 5.12 s and 10.24 s.
        assert looks[11] - looks[8] < 12
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_waits_is_due_when_the_remote_answers_again(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    await town.push(ZERO, await town.commit("waits for the network"))
    await database.write(_wait_for_network)
    away = Remote(tmp_path / "away", str(tmp_path / "nothing"))
    async with watching(town, {REPO: away}) as watcher:
        await watcher.says("reconcile", f"{REPO}: ", ok=False)
        (waits,) = await town.rows("SELECT not_before FROM builds")
        assert (waits["not_before"], watcher.woken) == (2**41, [])
        copy = tmp_path / "copy"
        clone = ("clone", "--quiet", "--bare", ".", str(copy))
        await asyncio.to_thread(town.origin.git, *clone)
        copy.rename(tmp_path / "nothing")

        async def due() -> bool:
            return await town.rows("SELECT not_before FROM builds") == [
                {"not_before": 0}
            ]

        await wait_until(due, what="a build that is due")
        assert watcher.woken == [0.0]


async def test_another_credential_makes_what_waits_due_and_the_remote_looked_at(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    await town.push(ZERO, await town.commit("waits for a token"))
    away = Remote(tmp_path / "away", str(tmp_path / "nothing"))
    async with watching(town, {REPO: away}, pace=Pace(tick=0.02)) as watcher:
        await watcher.says("reconcile", f"{REPO}: ", ok=False)
        await database.write(_wait_for_network)
        looked = away.times
        watcher.loop.credential_changed()

        async def due() -> bool:
            rows = await town.rows("SELECT not_before FROM builds")
            return rows == [{"not_before": 0}] and away.times > looked

        await wait_until(due, what="a build that is due, and a look")


def _wait_for_network(connection: Any) -> None:
    claimed = queue.claim(connection, instance=1, at=1, context=CONTEXT)
    assert claimed is not None
    states.requeue(
        connection,
        claimed.number,
        reason="no network",
        counted=False,
        not_before=2**41,
        at=1,
        seconds=0,
    )


def test_a_build_that_waits_for_our_own_fault_keeps_waiting() -> None:
    connection = memory()
    enqueue(connection, 1)
    claimed = queue.claim(connection, instance=1, at=1, context=CONTEXT)
    assert claimed is not None
    states.requeue(
        connection,
        claimed.number,
        reason="no room",
        counted=True,
        not_before=2**41,
        at=1,
        seconds=0,
    )
    assert queue.hurry(connection) == 0
    connection.execute("UPDATE attempts SET outcome = 'interrupted'")
    assert queue.hurry(connection) == 1


async def test_a_move_that_nobody_announced_is_an_alarm_until_github_tells(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=OFTEN).open()
    first = await town.commit("first")
    async with watching(town) as watcher:
        await built(town, first)
        await watcher.says("webhook", "no push was found", ok=True)
        quiet = await town.commit("quiet")
        check = await watcher.says("webhook", f"moved to {quiet[:7]}", ok=False)
        assert f"dev of {REPO}" in check.detail
        assert "tailscale funnel status" in check.fix
    async with watching(town) as watcher:
        # It survives a restart.
        await watcher.says("webhook", f"moved to {quiet[:7]}", ok=False)
        await town.push(first, quiet)
        await watcher.says("webhook", "no push was found", ok=True)


async def test_what_is_found_at_the_start_is_no_alarm(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=OFTEN).open()
    await town.commit("first")
    await town.look()
    missed = await town.commit("missed while we were down")
    async with watching(town) as watcher:
        await built(town, missed)
        await watcher.says("reconcile", "as the remote shows it", ok=True)
    assert await database.read(watched.unannounced) == []


async def test_a_history_that_cannot_be_written_breaks_off_no_look(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A remote that takes half an hour must not be begun anew for a lock of seconds."""
    town = await Town(database, tmp_path, github=RARELY).open()
    await town.push(ZERO, await town.commit("waits for the network"))
    await database.write(_wait_for_network)
    clocks = Sleeper()
    town.mirror.answers.clear()
    async with watching(town, watch=SleepWatch(clocks.read)) as watcher:
        await wait_until(lambda: town.mirror.times, what="a look that hangs")
        refuse = "CREATE TRIGGER full BEFORE UPDATE OF not_before ON builds BEGIN "
        await database.write(
            lambda connection: connection.execute(
                f"{refuse} SELECT RAISE(ABORT, 'no room'); END"
            )
        )
        clocks.slept += 3600
        await wait_until(lambda: town.mirror.times == 2, what="a look after waking")
        await wait_until(lambda: "no room" in caplog.text, what="a write in vain")
        await database.write(lambda connection: connection.execute("DROP TRIGGER full"))

        async def due() -> bool:
            return await town.rows("SELECT not_before FROM builds") == [
                {"not_before": 0}
            ]

        await wait_until(due, what="a build that is due")
        assert town.mirror.times == 2
        town.mirror.answers.set()
        await watcher.says("reconcile", "as the remote shows it", ok=True)


async def test_polling_needs_no_git_while_nothing_moves(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path).open()
    first = await town.commit("first")
    async with real_github() as (server, github):
        server.hooks.origins[REPO] = town.origin
        polling = {"reconcile_every": "50ms", "webhook": False, "api_url": server.url}
        url = f"ssh://git@127.0.0.1/{REPO}.git"
        town.settings = parse(
            {"github": polling, "repository": [{"name": REPO, "url": url}]}
        )
        mirror = town.mirror
        async with watching(town, github=github) as watcher:
            await built(town, first)
            assert [check.name for check in watcher.loop.checks()] == ["reconcile"]
            # The first time git is asked, the second the API without an ETag.
            await wait_until(lambda: len(server.requests) >= 5)
            assert mirror.times == 1
            etags = [seen.headers.get("If-None-Match") for seen in server.requests]
            assert etags == [None, *[f'W/"{first}"'] * (len(etags) - 1)]
            second = await town.commit("second")
            await built(town, second)
            assert mirror.times == 1
            # The API takes our token no more: the remote itself is asked.
            server.tokens.clear()
            third = await town.commit("third")
            await built(town, third)
            assert mirror.times > 1


async def test_an_unchanged_branch_hides_nothing_that_was_not_recorded(
    database: Database, tmp_path: Path
) -> None:
    """The ETag is kept only with what followed from the head that it came with."""
    town = await Town(database, tmp_path).open()
    base = await town.commit("base")
    await town.look()
    head = await town.commit("head")
    await database.write(
        lambda connection: connection.execute(
            "CREATE TRIGGER no_builds BEFORE INSERT ON builds "
            "BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    )
    with pytest.raises(Exception, match="no room"):
        await town.look()
    (row,) = await town.rows("SELECT sha FROM watched_branches")
    assert row["sha"] == base
    await database.write(
        lambda connection: connection.execute("DROP TRIGGER no_builds")
    )
    assert await town.look() == 1
    assert (await town.order())[-1] == head


async def test_missed_deliveries_come_after_all(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    shas = await town.commits(4)
    async with (
        real_github() as (server, github),
        running_edge(database, town.settings) as edge,
    ):
        hook = server.hooks.add(REPO, NOWHERE)
        url = f"http://127.0.0.1:{edge.port}/webhook"
        hook.url = url
        told = await server.hooks.deliver(hook, _told(ZERO, shas[0]))
        assert told.ok
        hook.url = NOWHERE
        for before, after in pairwise(shas):
            payload = _told(before, after)
            await server.hooks.deliver(hook, payload, age=timedelta(hours=1))
        hook.url = url
        async with watching(town, github=github) as watcher:
            await watcher.says("missed", "3 missed, 3 recovered", ok=True)
        assert len(server.hooks.asked) == 3
        assert len(await edge.rows("deliveries")) == 4
        assert await town.order() == shas
        async with watching(town, github=github) as watcher:
            await watcher.says("missed", "3 missed, 3 recovered", ok=True)
        assert len(server.hooks.asked) == 3


def _told(before: str, after: str) -> dict[str, Any]:
    return make_push([make_commit(after)], before=before, created=before == ZERO)


async def test_what_was_delivered_to_somebody_is_not_asked_for(
    database: Database, tmp_path: Path
) -> None:
    """A new history does not fetch the last three days; a try that went well counts."""
    town = await Town(database, tmp_path, github=RARELY).open()
    shas = await town.commits(2)
    async with (
        real_github() as (server, github),
        running_edge(database, town.settings) as edge,
    ):
        hook = server.hooks.add(REPO, NOWHERE)
        lost = await server.hooks.deliver(hook, _told(shas[0], shas[1]))
        hook.url = f"http://127.0.0.1:{edge.port}/webhook"
        await server.hooks.deliver(hook, _told(shas[0], shas[1]), guid=lost.guid)
        await database.write(_forget)
        await server.hooks.deliver(hook, _told(ZERO, shas[0]))
        async with watching(town, github=github) as watcher:
            await watcher.says("reconcile", "as the remote shows it", ok=True)
            await wait_until(lambda: server.requests, what="a question to GitHub")
            # Before it asks again it has drawn its conclusions.
            watcher.loop.credential_changed()
            await wait_until(lambda: server.requests[1:], what="another question")
            assert watcher.check("missed") is None
        assert server.hooks.asked == []


def _forget(connection: Any) -> None:
    for table in ("branch_commits", "outbox", "builds", "deliveries"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 — our own names


async def test_a_token_that_may_not_is_said_once_and_asked_again_rarely(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=OFTEN).open()
    sha = await town.commit("first")
    async with (
        real_github() as (server, github),
        running_edge(database, town.settings) as edge,
    ):
        hook = server.hooks.add(REPO, f"http://127.0.0.1:{edge.port}/webhook")
        server.hooks.allowed = "none"
        await server.hooks.deliver(hook, _told(ZERO, sha))
        async with watching(town, github=github) as watcher:
            check = await watcher.says("missed", "Webhooks: write", ok=True)
            assert REPO in check.detail
            looks = town.mirror.times
            await wait_until(lambda: town.mirror.times > looks + 3)
            assert len(server.requests) == 1
            server.hooks.allowed = "write"
            watcher.loop.credential_changed()
            await wait_until(lambda: watcher.check("missed") is None)


async def test_a_look_that_fails_is_tried_again_soon(
    database: Database, tmp_path: Path
) -> None:
    town = await Town(database, tmp_path, github=RARELY).open()
    sha = await town.commit("first")
    remote = Failing(tmp_path / "failing.git", town.origin.url)
    async with watching(town, {REPO: remote}) as watcher:
        await watcher.says("reconcile", "the cable is out (last good", ok=False)
        await built(town, sha)
        await watcher.says("reconcile", "as the remote shows it", ok=True)


class Failing(Remote):
    """Cannot be reached for the first three times."""

    async def remote_refs(self, branches: Any) -> dict[str, str]:
        self.times += 1
        if self.times <= 3:
            raise NetworkDown("the cable is out")
        return await super().remote_refs(branches)
