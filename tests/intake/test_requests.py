from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ci.adapters.git import Mirror
from ci.config import Settings
from ci.history import builds, queue, repositories, requests, states
from ci.history.database import Database
from ci.intake.requests import Requests
from ci.models import Build, BuildState, Cause, Commit, RequestKind
from ci.wake import Wake
from tests.fakes.repository import Origin
from tests.fakes.waiting import PATIENCE
from tests.intake.conftest import make_settings

CONTEXT = "build-server"


class Remote(Mirror):
    """A mirror whose remote can be made to say nothing until it is let go."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path, url)
        self.answers = asyncio.Event()
        self.answers.set()

    async def remote_refs(self, branches: Sequence[str]) -> dict[str, str]:
        await self.answers.wait()
        return await super().remote_refs(branches)


@dataclass
class Desk:
    """Somebody who asks, and the loop that answers."""

    database: Database
    origin: Origin
    settings: Settings
    mirrors: Mapping[str, Remote]
    wake: Wake = field(default_factory=Wake)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        mirrors = self.mirrors.__getitem__
        loop = Requests(self.database, self.settings, mirrors, self.wake)
        task = asyncio.create_task(loop.run())
        yield
        task.cancel()
        await asyncio.wait([task])

    async def ask(self, **body: Any) -> int:
        number = await self.database.write(
            requests.ask, RequestKind.TRIGGER, asked_by="a test", at=1, body=body
        )
        self.wake()
        return number

    async def outcome(self, number: int) -> dict[str, Any]:
        seen = self.wake.count
        async with asyncio.timeout(PATIENCE):
            while True:
                answer = await self.database.read(requests.outcome, number)
                if answer is not None:
                    return answer
                seen = await self.wake.wait(seen, PATIENCE)

    async def answer(self, **body: Any) -> dict[str, Any]:
        return await self.outcome(await self.ask(**body))

    async def build(self, number: int) -> Build:
        found = await self.database.read(builds.get, number)
        assert found is not None
        return found

    async def finish(self, state: BuildState) -> None:
        """End the build that is most wanted."""

        def end(connection: Any) -> None:
            claimed = queue.claim(connection, instance=1, at=2, context=CONTEXT)
            assert claimed is not None
            states.finish(
                connection,
                claimed.number,
                state,
                summary="",
                targets=(),
                at=3,
                seconds=1.0,
                context=CONTEXT,
            )

        await self.database.write(end)


@pytest.fixture
async def closed(database: Database, tmp_path: Path) -> Desk:
    """A remote with one commit on `dev`; nobody answers yet."""
    origin = await asyncio.to_thread(Origin, tmp_path / "origin")
    await asyncio.to_thread(origin.commit, {"a": "1"}, "First")
    settings = make_settings(
        {"name": "o/first", "url": origin.url, "branches": ["dev", "main"]},
        {"name": "o/second", "url": origin.url},
        {"name": "o/gone", "url": "https://127.0.0.1:1/gone.git"},
    )
    mirrors = {
        repository.name: Remote(tmp_path / repository.name, repository.url)
        for repository in settings.repositories
    }
    await database.write(
        lambda connection: connection.execute(
            "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
            "VALUES ('boot', 1, 1, 0)"
        )
    )
    return Desk(database, origin, settings, mirrors)


@pytest.fixture
async def desk(closed: Desk) -> AsyncIterator[Desk]:
    """The same, with the loop that answers."""
    async with closed.open():
        yield closed


async def commit(desk: Desk, message: str, **keys: Any) -> str:
    files = {"a": message}
    return await asyncio.to_thread(desk.origin.commit, files, message, **keys)


async def test_nothing_said_means_the_first_branch_of_the_first_repository(
    desk: Desk,
) -> None:
    answer = await desk.answer()
    build = await desk.build(1)
    assert answer["status"] == "triggered"
    assert answer["build"] == 1
    assert build.sha[:7] in answer["message"]
    assert (build.repo, build.branch, build.cause) == ("o/first", "dev", "trigger")
    assert (build.title, build.author) == ("First", "Ada Lovelace")
    assert build.sha == desk.origin.head()


async def test_a_known_commit_is_joined_told_of_or_built_again(desk: Desk) -> None:
    assert (await desk.answer())["status"] == "triggered"
    assert (await desk.answer())["status"] == "already_running"
    assert (await desk.answer(force=True))["status"] == "already_running"
    await desk.finish(BuildState.FAILED)
    told = await desk.answer()
    assert told["status"] == "already_built"
    assert "failed" in told["message"]
    assert "force" in told["message"]
    again = await desk.answer(force=True, targets=["checks.web"])
    assert again["status"] == "triggered"
    assert {told["build"], again["build"]} == {1}
    build = await desk.build(1)
    assert (build.state, build.requested_targets) == ("queued", ("checks.web",))


async def test_a_commit_that_was_skipped_is_wanted_now(desk: Desk) -> None:
    def skip(connection: Any) -> None:
        commits = [Commit(desk.origin.head(), "First", "Ada")]
        (number,) = queue.enqueue(
            connection,
            repositories.identify(connection, "o/first"),
            "dev",
            commits,
            cause=Cause.PUSH,
            head="",
            at=1,
            context=CONTEXT,
        )
        states.end_queued(
            connection,
            number,
            BuildState.SKIPPED,
            reason="over the limit",
            at=1,
            context=CONTEXT,
        )

    await desk.database.write(skip)
    assert (await desk.answer())["status"] == "triggered"
    assert (await desk.build(1)).state == "queued"


async def test_any_branch_can_be_asked_for(desk: Desk) -> None:
    for branch in ("feature/x", "a;$(id)", "-dash", "a" * 40, "<svg/onload=x>"):
        sha = await commit(desk, branch, branch=branch)
        answer = await desk.answer(ref=branch, repo="O/Second")
        if branch == "-dash":
            assert answer["status_code"] == 400
            continue
        build = await desk.build(answer["build"])
        assert (build.sha, build.branch, build.repo) == (sha, branch, "o/second")


async def test_a_commit_is_found_by_its_sha_or_the_beginning_of_it(desk: Desk) -> None:
    first = desk.origin.head()
    second = await commit(desk, "Second")
    lonely = await commit(desk, "Lonely", branch="unwatched")
    await commit(desk, "Third")
    by_sha = await desk.build((await desk.answer(rev=lonely))["build"])
    assert (by_sha.sha, by_sha.title, by_sha.branch) == (lonely, "Lonely", None)
    for sha in (first, second):
        build = await desk.build((await desk.answer(rev=sha[:10]))["build"])
        assert build.sha == sha
    assert (await desk.answer(rev=second[:7]))["status"] == "already_running"


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"repo": "o/unknown"}, 404, "o/first, o/second, o/gone"),
        ({"ref": "nothing"}, 404, "no branch nothing"),
        ({"ref": "refs/heads/dev"}, 400, "dev"),
        ({"ref": "*"}, 400, "pattern"),
        ({"ref": "--upload-pack=x"}, 400, "not a branch"),
        ({"ref": "dev:refs/heads/x"}, 400, "not a branch"),
        ({"rev": "0" * 40}, 404, "no longer has this commit"),
        ({"rev": "0123456"}, 404, "0123456"),
        ({"rev": "HEAD"}, 400, "SHA"),
        ({"rev": "DEADBEEF"}, 400, "SHA"),
        ({"targets": ["packages.*; rm"]}, 400, "target"),
    ],
)
async def test_what_cannot_be_built_is_refused_with_a_sentence(
    desk: Desk, body: dict[str, Any], status: int, sentence: str
) -> None:
    answer = await desk.answer(**body)
    assert answer["status_code"] == status, answer
    assert sentence in answer["error"]
    assert await desk.database.read(builds.page) == []


async def test_an_unreachable_remote_is_said_at_once(desk: Desk) -> None:
    answer = await desk.answer(repo="o/gone")
    assert answer["status_code"] == 502
    assert "could not be reached" in answer["error"]
    assert (await desk.answer())["status"] == "triggered"


async def test_commits_that_nobody_told_of_get_builds_too(desk: Desk) -> None:
    await desk.answer()
    missed = [await commit(desk, f"Missed {n}") for n in range(3)]
    answer = await desk.answer(targets=["checks.web"])
    rows = await desk.database.read(builds.page, repo="o/first", branch="dev")
    assert [row.sha for row in rows[::-1]] == [rows[-1].sha, *missed]
    head = await desk.build(answer["build"])
    assert (head.sha, head.requested_targets) == (missed[-1], ("checks.web",))
    assert [row.requested_targets for row in rows[1:]] == [()] * 3


async def test_a_slow_remote_delays_only_its_own_repository(desk: Desk) -> None:
    remote = desk.mirrors["o/first"]
    remote.answers.clear()
    slow = [await desk.ask() for _ in range(5)]
    assert (await desk.answer(repo="o/second"))["status"] == "triggered"
    for number in slow:
        assert await desk.database.read(requests.outcome, number) is None
    remote.answers.set()
    answers = [await desk.outcome(number) for number in slow]
    statuses = [answer["status"] for answer in answers]
    assert statuses == ["triggered", *["already_running"] * 4]


async def test_a_request_that_a_stop_interrupted_is_answered_after_the_start(
    closed: Desk,
) -> None:
    remote = closed.mirrors["o/first"]
    remote.answers.clear()
    async with closed.open():
        number = await closed.ask()
        # Once a later one is answered, the first is in work.
        await closed.answer(repo="o/second")
    assert await closed.database.read(requests.outcome, number) is None
    remote.answers.set()
    async with closed.open():
        assert (await closed.outcome(number))["status"] == "triggered"
