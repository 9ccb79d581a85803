"""A repository that is watched: a real origin, a real mirror, a real history."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci.adapters.git import Mirror
from ci.adapters.github import GitHub
from ci.adapters.host import now_ms
from ci.config import parse
from ci.history import builds, deliveries, queue, repositories, states
from ci.history.database import Database
from ci.history.deliveries import Receipt
from ci.intake.arrival import Reception
from ci.intake.heads import Heads
from ci.intake.look import Look
from ci.models import Build, BuildState
from tests.fakes.push import REPO, encode, headers, make_commit, make_push
from tests.fakes.repository import Origin

CONTEXT = "build-server"
NOWHERE = "http://127.0.0.1:1"

Rows = list[dict[str, Any]]


class Remote(Mirror):
    """A mirror that can be held just after it was told something, or has fetched."""

    def __init__(self, path: Path, url: str) -> None:
        super().__init__(path, url)
        self.answers = asyncio.Event()
        self.answers.set()
        self.fetched = asyncio.Event()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.times = 0

    async def remote_refs(self, branches: Sequence[str]) -> dict[str, str]:
        self.times += 1
        found = await super().remote_refs(branches)
        await self.answers.wait()
        return found

    async def fetch_branch(self, branch: str) -> str:
        found = await super().fetch_branch(branch)
        self.fetched.set()
        await self.goes_on.wait()
        return found


@dataclass
class Town:
    """One repository with branches `dev` and `main`, and somebody who looks at it."""

    database: Database
    folder: Path
    repository: dict[str, Any] = field(default_factory=dict)
    github: dict[str, Any] = field(default_factory=dict)
    fresh: int = 0

    def __post_init__(self) -> None:
        self.origin = Origin(self.folder / "origin.git")
        # A remote without any ref is not believed.
        self.origin.commit(message="trunk", branch="trunk")
        watched = {"name": REPO, "url": self.origin.url, "branches": ["dev", "main"]}
        self.settings = parse(
            {"github": self.github, "repository": [{**watched, **self.repository}]}
        )
        self.mirror = Remote(self.folder / "mirror.git", self.origin.url)
        self.reception = Reception(self.settings.repositories, CONTEXT, {})
        self._guids = itertools.count(1)

    async def open(self) -> Town:
        """Give the repository its row, and builds an instance that may run them."""
        names = await self.database.write(repositories.ensure, [REPO])
        self.number = names[REPO]
        await self.database.write(
            lambda connection: connection.execute(
                "INSERT INTO instances (boot_id, pid, pid_start, started_at) "
                "VALUES ('boot', 1, 1, 0)"
            )
        )
        repository = self.settings.repositories[0]
        github = GitHub(NOWHERE, lambda: None)
        self.looker = Look(
            self.database,
            repository,
            self.number,
            lambda: self.mirror,
            Heads(github, NOWHERE, repository.url, lambda: self.mirror),
            CONTEXT,
            lambda: None,
            fresh=self.fresh,
        )
        return self

    async def look(self, *, alarm: bool = False) -> int:
        """Look; returns how many builds were made."""
        before = len(await self.builds())
        assert await self.looker(alarm=lambda: alarm)
        return len(await self.builds()) - before

    async def push(
        self,
        before: str,
        *shas: str,
        branch: str = "dev",
        guid: str | None = None,
        at: int | None = None,
        message: str = "told",
        **keys: Any,
    ) -> Receipt:
        """GitHub tells of a push of these commits, oldest first, on top of `before`."""
        commits = [make_commit(sha, message) for sha in shas]
        payload = make_push(commits, before=before, branch=branch, **keys)
        body = encode(payload)
        told = headers(body, guid=guid or f"guid-{next(self._guids)}")
        arrival = self.reception.arrival(told, body, now_ms() if at is None else at)
        (receipt,) = await self.database.write(deliveries.accept, [arrival])
        return receipt

    async def commit(self, title: str, branch: str = "dev") -> str:
        files = {title: title}
        return await asyncio.to_thread(self.origin.commit, files, title, branch=branch)

    async def commits(self, count: int, branch: str = "dev") -> list[str]:
        return await asyncio.to_thread(self.origin.commits, count, branch=branch)

    async def builds(self, branch: str | None = None) -> list[Build]:
        """By number, oldest first."""
        page = await self.database.read(builds.page, branch=branch, limit=10_000)
        return page[::-1]

    async def states(self) -> dict[str, str]:
        """The title of each commit, and the state of its build."""
        return {build.title: build.state.value for build in await self.builds()}

    async def state(self, sha: str) -> str:
        """The state of a commit's build."""
        (build,) = [build for build in await self.builds() if build.sha == sha]
        return build.state.value

    async def order(self, branch: str = "dev") -> list[str]:
        """The SHAs of a branch in branch order, the newest last."""
        rows = await self.rows(
            "SELECT b.sha FROM branch_commits c JOIN builds b ON b.number = c.build "
            "WHERE c.branch = ? ORDER BY c.position",
            branch,
        )
        return [row["sha"] for row in rows]

    async def rows(self, query: str, *values: object) -> Rows:
        found = await self.database.read(
            lambda connection: connection.execute(query, values).fetchall()
        )
        return [dict(row) for row in found]

    async def finish(self, state: BuildState = BuildState.SUCCEEDED) -> None:
        """Run everything that waits."""

        def end(connection: Any) -> bool:
            claimed = queue.claim(connection, instance=1, at=2**42, context=CONTEXT)
            if claimed is not None:
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
            return claimed is not None

        while await self.database.write(end):
            pass
