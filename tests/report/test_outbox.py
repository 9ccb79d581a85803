"""The sender against a GitHub that has bad days: real HTTP, real SQLite, real order."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from ci.adapters.github import Credential, GitHub, Token
from ci.adapters.host import now_ms
from ci.history import outbox as rows, queue, repositories, states
from ci.history.database import Database
from ci.models import BuildState, Cause, Commit, Target
from ci.report.outbox import BUDGET_SPENT, IDLE, Outbox, Pace
from ci.wake import Wake
from tests.fakes import misbehave
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.misbehave import Reply
from tests.fakes.waiting import PATIENCE, wait_until

REPO = "Bullish-Design/nix-terminal"
OTHER = "Bullish-Design/other"
CONTEXT = "build-server"
WEB = "checks.web-test"
BROKEN = Target(WEB, BuildState.FAILED, 12.0, "expected 200, got 500")
MENDED = Target(WEB, BuildState.SUCCEEDED, 9.0)
FAST = Pace(gap=0, first_retry=0.005, longest_retry=0.02, longest_outage_pause=0.01)


@dataclass
class World:
    """One history, one GitHub, and the outbox between them."""

    database: Database
    server: FakeGitHub
    pace: Pace = FAST
    offset: int = 0
    token: str = TOKEN
    patience: float = 20.0
    # Seconds by which the clock that nobody sets is ahead.
    later: float = 0.0
    wake: Wake = field(default_factory=Wake)
    shas: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.github = self.connected()
        self.outbox = self.restarted()

    def connected(self) -> GitHub:
        return GitHub(self.server.url, self.credential, timeout=self.patience)

    async def be_patient(self) -> None:
        """From now on an answer may take its time; the outbox goes on as it is."""
        await self.github.close()
        self.patience = PATIENCE
        self.github = self.connected()

    # What the outbox has in the place of GitHub: whichever connection there is now.

    def trouble(self) -> str:
        return self.github.trouble()

    def forgive(self) -> None:
        self.github.forgive()

    async def post_status(self, repo: str, sha: str, **what: Any) -> None:
        await self.github.post_status(repo, sha, **what)

    def credential(self) -> Credential:
        return Token(self.token)

    def clock(self) -> int:
        return now_ms() + self.offset

    def restarted(self) -> Outbox:
        return Outbox(
            self.database,
            self,
            public_url="http://build-server:8000",
            wake=self.wake,
            pace=self.pace,
            clock=self.clock,
            monotonic=lambda: time.monotonic() + self.later,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Outbox]:
        task = asyncio.create_task(self.outbox.run())
        try:
            yield self.outbox
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def push(self, *, repo: str = REPO, older: int = 0) -> tuple[int, str]:
        """Enqueue a push of `older` commits and a head: the head's number and SHA."""
        shas = [f"{next(self.shas):040x}" for _ in range(older + 1)]
        repository = await self.database.write(repositories.identify, repo)
        numbers = await self.database.write(
            queue.enqueue,
            repository,
            "dev",
            [Commit(sha, "a change", "alice") for sha in shas],
            cause=Cause.PUSH,
            head=shas[-1],
            at=self.clock(),
            context=CONTEXT,
        )
        self.wake()
        return numbers[-1], shas[-1]

    async def claim(self) -> int:
        claimed = await self.database.write(
            queue.claim, instance=1, at=self.clock(), context=CONTEXT
        )
        self.wake()
        assert claimed is not None
        return claimed.number

    async def finish(self, number: int, state: BuildState, *targets: Target) -> None:
        await self.database.write(
            states.finish,
            number,
            state,
            summary="",
            targets=targets,
            at=self.clock(),
            seconds=192.0,
            context=CONTEXT,
        )
        self.wake()

    async def reopen(self, number: int) -> None:
        await self.database.write(
            states.reopen, number, at=self.clock(), context=CONTEXT
        )
        self.wake()

    async def build(self, state: BuildState, *targets: Target) -> str:
        """One push, built at once; its SHA."""
        _, sha = await self.push()
        await self.finish(await self.claim(), state, *targets)
        return sha

    async def backlog(self) -> int:
        return await self.database.read(rows.backlog)

    async def dead(self) -> list[str]:
        letters = await self.database.read(rows.dead_letters)
        return [letter.error for letter in letters]

    async def spend(self) -> None:
        """Step until the hour's budget lets nothing more out."""
        async with asyncio.timeout(PATIENCE):
            while await self.outbox.step() != BUDGET_SPENT:
                pass

    async def send(self) -> None:
        """One step, and the wait that it asks for."""
        await self.wake.wait(self.wake.count, await self.outbox.step())

    async def drain(self) -> None:
        """Step until everything is sent or dead."""
        async with asyncio.timeout(PATIENCE):
            while await self.backlog():
                await self.send()

    async def asked(self, count: int) -> None:
        """Step until GitHub has been asked so many times, and we know its answer."""
        async with asyncio.timeout(PATIENCE):
            while len(self.server.requests) < count:
                await self.send()


def _begin_instance(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO instances (boot_id, pid, pid_start, started_at) VALUES ('b',1,1,0)"
    )


@asynccontextmanager
async def a_world(path: Path, patience: float = 20.0) -> AsyncIterator[World]:
    database = await Database.open(path / "outbox.sqlite")
    try:
        await database.write(_begin_instance)
        async with FakeGitHub() as server:
            world = World(database, server, patience=patience)
            try:
                yield world
            finally:
                await world.github.close()
    finally:
        await database.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path) as one:
        yield one


async def test_a_push_is_told_from_pending_to_its_verdict(world: World) -> None:
    async with world.running():
        number, sha = await world.push()
        pending = await world.server.wait_for(sha, "pending")
        assert pending.description == "queued"
        assert await world.claim() == number
        await world.finish(number, BuildState.FAILED, BROKEN)
        verdict = await world.server.wait_for(sha, "failure")
        assert verdict.description == (
            "✗ checks.web-test: expected 200, got 500 · 1 of 1 failed · 3m 12s"
        )
        assert verdict.target_url == f"http://build-server:8000/builds/{number}"
        own = await world.server.wait_for(sha, "failure", context=f"{CONTEXT}/{WEB}")
        assert own.description == "✗ expected 200, got 500 · 12s"
        await world.reopen(number)
        again = await world.server.wait_for(sha, "pending")
        assert again.description == "queued · attempt 2"
        await world.claim()
        await world.finish(number, BuildState.SUCCEEDED, MENDED)
        await world.server.wait_for(sha, "success")
        own = await world.server.wait_for(sha, "success", context=f"{CONTEXT}/{WEB}")
        assert own.description == "✓ builds · 9s"
        assert world.outbox.trouble == ""


async def test_the_verdict_names_the_commit_that_broke_the_branch(world: World) -> None:
    breaker = await world.build(BuildState.FAILED, BROKEN)
    sha = await world.build(BuildState.FAILED, BROKEN)
    await world.drain()
    assert world.server.latest(sha)[CONTEXT].description.endswith(
        f"since {breaker[:7]}"
    )


async def test_a_renamed_repository_is_told_under_its_new_name(world: World) -> None:
    await world.push()
    await world.database.write(repositories.remember, REPO, 99, "Bullish-Design/shell")
    await world.drain()
    assert [status.repo for status in world.server.taken] == ["Bullish-Design/shell"]


async def test_a_verdict_that_waited_is_told_before_the_next_pending(
    world: World,
) -> None:
    number, sha = await world.push()
    await world.claim()
    await world.finish(number, BuildState.FAILED, BROKEN)
    await world.reopen(number)
    await world.drain()
    told = [(s.state, s.description) for s in world.server.statuses(sha, CONTEXT)]
    assert told == [
        ("failure", "✗ failure · being built again, attempt 2"),
        ("pending", "queued · attempt 2"),
    ]


PASSING: list[Reply] = [
    misbehave.moved(301, "/repositories/1/statuses/0"),
    misbehave.moved(307, "/repositories/1/statuses/0"),
    misbehave.server_error(500),
    misbehave.server_error(502),
    misbehave.server_error(520),
    misbehave.html(),
    misbehave.truncated(),
    misbehave.charset(),
    misbehave.reset(accept=False),
    misbehave.reset(accept=True),
    misbehave.slow(3600),
    misbehave.not_found(),
    misbehave.forbidden(),
    misbehave.unknown_sha("0" * 40),
]


@pytest.mark.parametrize("reply", PASSING, ids=lambda reply: reply.name)
async def test_a_bad_day_passes_and_leaves_the_verdict(
    tmp_path: Path, reply: Reply
) -> None:
    async with a_world(tmp_path, patience=0.3 if reply.delay else PATIENCE) as world:
        world.server.misbehave(reply, reply)
        sha = await world.build(BuildState.SUCCEEDED)
        await world.outbox.step()
        assert bool(world.outbox.trouble) is (reply.status != 422)
        await world.asked(2)
        # What comes now is an answer, however long this machine takes for it.
        await world.be_patient()
        await world.drain()
        assert world.server.latest(sha)[CONTEXT].state == "success"
        assert len(world.server.requests) == 3
        assert await world.dead() == []
        assert world.outbox.trouble == ""


async def test_a_lost_reply_repeats_a_status_and_changes_no_order(world: World) -> None:
    world.server.misbehave(misbehave.reset(accept=True))
    sha = await world.build(BuildState.SUCCEEDED)
    await world.drain()
    await world.reopen(1)
    world.server.misbehave(misbehave.reset(accept=True))
    await world.drain()
    states = [status.state for status in world.server.statuses(sha)]
    assert states == ["success", "success", "pending", "pending"]


async def test_a_limit_silences_the_whole_outbox_for_as_long_as_asked(
    world: World,
) -> None:
    world.server.misbehave(misbehave.secondary_limit(1))
    shas = [await world.build(BuildState.SUCCEEDED) for _ in range(3)]
    async with world.running() as outbox:
        await wait_until(lambda: "403" in outbox.trouble, what="what GitHub asks for")
        for _ in range(20):
            world.wake()
            await asyncio.sleep(0)
        assert "403" in outbox.trouble
        for sha in shas:
            await world.server.wait_for(sha, "success")
    first, second, *_ = [seen.at for seen in world.server.requests]
    assert second - first >= 1
    assert len(world.server.requests) == 4


async def test_the_hourly_limit_is_waited_for_whatever_the_wall_clock_does(
    world: World,
) -> None:
    await world.build(BuildState.SUCCEEDED)
    world.server.misbehave(misbehave.primary_limit(1800, status=429))
    await world.outbox.step()
    assert "429" in world.outbox.trouble
    for jump in (-86_400_000, 86_400_000):
        world.offset = jump
        # But for what it took us to come here.
        assert await world.outbox.step() == pytest.approx(1800, abs=60)
    assert len(world.server.requests) == 1


async def test_a_rejected_token_stops_all_posting_until_it_changes(
    world: World,
) -> None:
    world.token = "revoked"
    shas = [await world.build(BuildState.SUCCEEDED) for _ in range(3)]
    await world.outbox.step()
    for _ in range(5):
        assert await world.outbox.step() == IDLE
    assert "401" in world.outbox.trouble
    assert len(world.server.requests) == 1
    world.token = TOKEN
    world.outbox.credential_changed()
    await world.drain()
    assert all(world.server.latest(sha) for sha in shas)
    assert world.outbox.trouble == ""


async def test_one_forbidden_repository_does_not_hold_up_the_others(
    world: World,
) -> None:
    world.pace = replace(FAST, first_retry=100, longest_retry=100, refused_for=1000)
    world.outbox = world.restarted()
    world.server.repositories = {OTHER}
    await world.push(repo=REPO)
    _, sha = await world.push(repo=OTHER)
    await world.asked(2)
    assert world.server.latest(sha)[CONTEXT].state == "pending"
    # Each time it is due it is tried again, and after its time no more.
    for tries in range(3, 11):
        assert await world.dead() == []
        world.offset += 130_000
        world.later += 130
        await world.asked(tries)
    assert await world.backlog() == 0
    (letter,) = await world.dead()
    assert "404" in letter
    assert "statuses=write" in letter
    assert "404" in world.outbox.trouble
    world.server.repositories.add(REPO)
    await world.push(repo=REPO)
    await world.drain()
    assert world.outbox.trouble == ""


async def test_a_permission_that_was_granted_is_used_at_once(world: World) -> None:
    world.pace = replace(FAST, first_retry=1000, longest_retry=3600)
    world.outbox = world.restarted()
    world.server.repositories = set()
    _, sha = await world.push()
    await world.outbox.step()
    assert await world.outbox.step() > 100
    world.server.repositories = {REPO}
    async with world.running() as outbox:
        outbox.credential_changed()
        await world.server.wait_for(sha, "pending")


async def test_a_broken_rule_is_a_dead_letter_and_life_goes_on(world: World) -> None:
    message = "This SHA and context has reached the maximum number of statuses."
    world.server.misbehave(misbehave.invalid(message))
    await world.push()
    await world.outbox.step()
    assert await world.dead()
    sha = await world.build(BuildState.SUCCEEDED)
    await world.drain()
    assert world.server.latest(sha)[CONTEXT].state == "success"
    (letter,) = await world.dead()
    assert message in letter
    assert len(world.server.requests) == 2
    assert world.outbox.trouble == ""


async def test_dead_letters_are_shown_until_they_are_made_good_or_old(
    world: World,
) -> None:
    (healthy,) = world.outbox.checks()
    assert healthy.ok
    world.server.misbehave(misbehave.invalid("description is too long"))
    number, _ = await world.push()
    await world.outbox.step()
    (check,) = world.outbox.checks()
    assert not check.ok
    assert "1 refused for good" in check.detail
    assert "description is too long" in check.detail
    # A restart finds them in the history.
    world.outbox = world.restarted()
    async with world.running() as outbox:
        await wait_until(lambda: not outbox.checks()[0].ok)
    world.offset = 4 * 86_400_000
    (old,) = world.outbox.checks()
    assert old.ok
    assert "1 refused for good" in old.detail
    world.offset = 0
    await world.claim()
    await world.finish(number, BuildState.SUCCEEDED)
    await world.drain()
    (good,) = world.outbox.checks()
    assert good.ok
    assert "refused" not in good.detail


async def test_a_commit_that_github_never_learns_of_is_given_up(world: World) -> None:
    world.server.commits = set()
    await world.push()
    await world.drain()
    (letter,) = await world.dead()
    assert "No commit found" in letter
    assert len(world.server.requests) == 6


async def test_days_without_an_answer_end_in_a_dead_letter(world: World) -> None:
    world.server.misbehave(*[misbehave.server_error(500)] * 30)
    _, sha = await world.push()
    for _ in range(10):
        await world.wake.wait(world.wake.count, await world.outbox.step())
    world.offset = 8 * 86_400_000
    await world.drain()
    (letter,) = await world.dead()
    assert "given up after" in letter
    assert len(world.server.requests) == 20
    assert world.server.latest(sha) == {}


async def test_after_an_outage_what_waited_goes_at_once(world: World) -> None:
    world.pace = replace(FAST, first_retry=1000, longest_retry=3600)
    world.outbox = world.restarted()
    world.server.misbehave(*[misbehave.server_error(503)] * 3)
    shas = [await world.build(BuildState.SUCCEEDED) for _ in range(4)]
    async with world.running():
        for sha in shas:
            await world.server.wait_for(sha, "success")


async def test_a_verdict_that_waits_alone_goes_when_the_network_is_back(
    world: World,
) -> None:
    world.pace = replace(FAST, first_retry=1000, longest_outage_pause=0.1)
    world.outbox = world.restarted()
    world.server.misbehave(misbehave.server_error(503))
    sha = await world.build(BuildState.SUCCEEDED)
    async with world.running() as outbox:
        await wait_until(lambda: outbox.trouble, what="an outage")
        assert world.server.latest(sha) == {}
        outbox.hurry()
        await world.server.wait_for(sha, "success")


async def test_posts_keep_their_distance(world: World) -> None:
    world.pace = replace(FAST, gap=0.1)
    world.outbox = world.restarted()
    for _ in range(4):
        await world.build(BuildState.SUCCEEDED)
    await world.drain()
    times = [seen.at for seen in world.server.requests]
    assert len(times) == 4
    assert all(b - a >= 0.1 for a, b in itertools.pairwise(times))


async def test_the_hours_budget_is_kept_for_what_people_wait_for(world: World) -> None:
    world.pace = replace(FAST, hourly=6, reserve=3)
    world.outbox = world.restarted()
    await world.push(older=9)
    for _ in range(10):
        await world.claim()
    await world.spend()
    assert len(world.server.taken) == 3
    await world.finish(1, BuildState.SUCCEEDED)
    for number in range(2, 6):
        await world.finish(number, BuildState.FAILED)
    await world.spend()
    assert [status.state for status in world.server.taken[3:]] == [
        "success",
        "failure",
        "failure",
    ]
    world.offset = 3_600_000 + 1000
    await world.spend()
    assert len(world.server.taken) == 9


async def test_a_pending_on_its_way_is_followed_by_the_verdict(world: World) -> None:
    world.server.misbehave(misbehave.slow(0.3))
    async with world.running():
        number, sha = await world.push()
        # GitHub has it; we do not know that yet.
        await world.server.wait_for(sha, "pending")
        await world.claim()
        await world.finish(number, BuildState.SUCCEEDED)
        await world.server.wait_for(sha, "success")
    assert [status.state for status in world.server.taken] == ["pending", "success"]


async def test_a_sender_that_dies_in_a_post_leaves_it_to_the_next(world: World) -> None:
    world.server.misbehave(misbehave.slow(3600))
    async with world.running():
        sha = await world.build(BuildState.SUCCEEDED)
        await world.server.wait_for_requests(1)
    world.outbox = world.restarted()
    await world.drain()
    assert world.server.latest(sha)[CONTEXT].state == "success"


async def test_github_may_be_away_for_a_while(world: World) -> None:
    await world.server.stop()
    async with world.running() as outbox:
        sha = await world.build(BuildState.SUCCEEDED)
        while not outbox.trouble:
            await world.wake.wait(world.wake.count, 0.01)
        assert "no answer" in outbox.trouble
        await world.server.start()
        await world.server.wait_for(sha, "success")


async def test_nothing_to_say_is_a_long_wait(world: World) -> None:
    assert await world.outbox.step() == IDLE
    assert world.server.requests == []


Act = Callable[[World], Awaitable[None]]


async def _push_or_reopen(world: World) -> None:
    build = await world.database.read(_state)
    if build is None:
        await world.push()
    elif BuildState(build).final:
        await world.reopen(1)


async def _run(world: World) -> None:
    if await world.database.read(_state) == BuildState.QUEUED:
        await world.claim()


async def _succeed(world: World) -> None:
    if await world.database.read(_state) == BuildState.RUNNING:
        await world.finish(1, BuildState.SUCCEEDED)


async def _fail(world: World) -> None:
    if await world.database.read(_state) == BuildState.RUNNING:
        await world.finish(1, BuildState.FAILED)


async def _send(world: World) -> None:
    await world.wake.wait(world.wake.count, min(await world.outbox.step(), 0.05))


async def _restart(world: World) -> None:
    world.outbox = world.restarted()


def _state(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT state FROM builds WHERE number = 1").fetchone()
    return None if row is None else str(row["state"])


ACTS = st.lists(
    st.sampled_from([_push_or_reopen, _run, _succeed, _fail, _send, _send, _restart]),
    max_size=25,
)
DAYS = st.lists(
    st.sampled_from(
        [
            None,
            misbehave.server_error(502),
            misbehave.truncated(),
            misbehave.reset(accept=True),
            misbehave.reset(accept=False),
            misbehave.not_found(),
            misbehave.moved(301, "/elsewhere"),
        ]
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(acts=ACTS, days=DAYS)
def test_github_converges_to_the_builds_state_whatever_happens(
    acts: list[Act], days: list[Reply | None]
) -> None:
    """What GitHub took is a part of the true story, in its order, with its end."""

    async def live() -> None:
        story: list[str] = []
        with tempfile.TemporaryDirectory() as path:
            async with a_world(Path(path)) as world:
                world.server.misbehave(*days)
                for act in acts:
                    await act(world)
                    state = await world.database.read(_state)
                    if state is not None and story[-1:] != [_word(state)]:
                        story.append(_word(state))
                await world.drain()
                told = [status.state for status in world.server.taken]
                plain = [state for state, _ in itertools.groupby(told)]
                assert plain[-1:] == story[-1:]
                rest = iter(story)
                assert all(state in rest for state in plain)

    asyncio.run(live())


def _word(state: str) -> str:
    return {"succeeded": "success", "failed": "failure"}.get(state, "pending")
