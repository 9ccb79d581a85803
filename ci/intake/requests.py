"""Answers triggers: finds the commit that somebody asked to be built."""

from __future__ import annotations

import asyncio
import logging
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Sequence

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.config import Repository, Settings
from ci.errors import BuildServerError, CommitVanished, RequestError
from ci.history import builds, repositories, requests, watched
from ci.history.database import Database
from ci.history.requests import Request
from ci.intake.gap import missing
from ci.intake.trigger import Found, Wanted, read_body, refusal, settle
from ci.models import Commit, RequestKind
from ci.wake import Wake

# Seconds between two looks at the rows when no bell rings.
POLL = 60.0
# A name in the mirror for commits that have no build number yet.
SCRATCH = 0

_FULL = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")

log = logging.getLogger(__name__)


class Requests:
    """Answers `trigger` rows; those of one repository one after the other.

    A repository whose remote is slow does not keep the others waiting.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        mirrors: Callable[[str], Mirror],
        wake: Wake,
    ) -> None:
        self._database = database
        self._settings = settings
        self._mirrors = mirrors
        self._wake = wake
        self._taken: set[int] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        """Answer open rows until cancelled; rows in work then stay open."""
        async with asyncio.TaskGroup() as group:
            seen = -1
            while True:
                seen = await self._wake.wait(seen, POLL)
                # Before reading: a row answered meanwhile may still look open there.
                taken = frozenset(self._taken)
                for request in await self._database.read(
                    requests.unanswered, RequestKind.TRIGGER
                ):
                    if request.id not in taken:
                        self._taken.add(request.id)
                        group.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            await self._answer(request)
        except Exception as error:
            # One bad request must not end the loop, and its asker wants to be told.
            if not isinstance(error, BuildServerError):
                log.exception("trigger %d failed", request.id)
            await self._database.write(
                requests.answer, request.id, at=now_ms(), answer=refusal(error)
            )
        finally:
            self._taken.discard(request.id)
        self._wake()

    async def _answer(self, request: Request) -> None:
        wanted = read_body(request.body, self._settings.repositories)
        async with self._turns[wanted.repository.name]:
            found = await self._find(wanted)
            await self._database.write(
                settle,
                request.id,
                wanted,
                found,
                at=now_ms(),
                context=self._settings.github.status_context,
            )

    async def _find(self, wanted: Wanted) -> Found:
        mirror = self._mirrors(wanted.repository.name)
        if wanted.rev is None:
            return await self._head(mirror, wanted)
        if _FULL.fullmatch(wanted.rev):
            return Found(await self._commit(mirror, wanted.repository, wanted.rev))
        sha = await mirror.resolve(wanted.rev)
        if sha is None:
            present = await mirror.remote_refs(wanted.repository.branches)
            for branch in present:
                await mirror.fetch_branch(branch)
            sha = await mirror.resolve(wanted.rev)
        if sha is None:
            raise RequestError(
                404,
                f"no commit of {wanted.repository.name} that is known here begins with "
                f"{wanted.rev}, or several do; give the full SHA",
            )
        return Found(await self._commit(mirror, wanted.repository, sha))

    async def _head(self, mirror: Mirror, wanted: Wanted) -> Found:
        repo, branch = wanted.repository.name, wanted.branch
        sha = (await mirror.remote_refs([branch])).get(branch)
        if sha is None:
            raise RequestError(404, f"{repo} has no branch {branch}")
        if await self._database.read(builds.find, repo, sha) is None:
            sha = await mirror.fetch_branch(branch)
        commit = await self._commit(mirror, wanted.repository, sha)
        return Found(commit, branch, await self._missed(mirror, wanted, sha))

    async def _missed(
        self, mirror: Mirror, wanted: Wanted, head: str
    ) -> tuple[Commit, ...]:
        """Commits below `head` that nobody told us of.

        Once the head has a build the branch looks complete, so they are asked for now.
        """
        repository, branch = wanted.repository, wanted.branch
        if repository.policy == "latest" or branch not in repository.branches:
            return ()
        known = await self._database.write(_known, repository.name, branch)
        if not known:
            return ()
        try:
            limit = repository.max_commits_per_push
            commits = await missing(mirror, head, known, limit)
        except CommitVanished:
            # Announced, not fetched yet: whoever builds the head finds what is missing.
            return ()
        return tuple(commits[:-1])

    async def _commit(self, mirror: Mirror, repository: Repository, sha: str) -> Commit:
        build = await self._database.read(builds.find, repository.name, sha)
        if build is not None:
            return Commit(sha=sha, title=build.title, author=build.author)
        await mirror.fetch_commit(sha, SCRATCH)
        try:
            return await mirror.commit(sha)
        finally:
            await mirror.unpin(SCRATCH)


def _known(connection: sqlite3.Connection, repo: str, branch: str) -> Sequence[str]:
    here = repositories.identify(connection, repo)
    return watched.standing(connection, here, branch, 0).known
