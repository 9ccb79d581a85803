"""Before a build: have the commit, and let git correct what the payload told.

A payload may be cut, arrive late or tell nothing about a rewritten branch; once the
commit is in the mirror, git knows which commits the push really added and which waiting
ones no longer exist on the branch (facts: GitHub cuts `commits` at 2048).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ci.adapters.git import Mirror
from ci.adapters.git.reach import MOST_COMMITS, left_behind, reaches
from ci.adapters.host import now_ms
from ci.config import Repository
from ci.errors import CommitVanished
from ci.history import branches, endings, queue
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import Cause, Commit


async def settle_push(
    database: Database,
    mirror: Mirror,
    claimed: Claimed,
    repository: Repository,
    context: str,
) -> int:
    """Enqueue commits that the push added and its payload left out; return how many.

    Only for the head of a push (`claimed.before` is set); the commit must be in the
    mirror. After a force push, waiting commits that the branch no longer has are skipped.
    """
    branch, before = claimed.branch, claimed.before
    if branch is None or before is None or set(before) == {"0"}:
        return 0
    if claimed.forced:
        await _skip_unreachable(database, mirror, claimed, branch, context)
        return 0
    if repository.policy == "latest":
        return 0
    told = await database.read(branches.gap_begins, claimed.number, before)
    if told != before and await reaches(mirror, claimed.sha, told):
        before = told
    elif not await reaches(mirror, claimed.sha, before):
        return 0
    commits = await mirror.rev_list(claimed.sha, before, MOST_COMMITS)
    if len(commits) <= 1:
        return 0
    return await database.write(
        _fill, claimed, branch, commits, repository.max_commits_per_push, context
    )


async def check_wanted(database: Database, mirror: Mirror, claimed: Claimed) -> None:
    """Raise CommitVanished when a force push took the waiting commit off its branch.

    Only then is the branch asked for again. What somebody asked for since is built.
    """
    branch = claimed.branch
    if branch is None or not await database.read(branches.pushed_away, claimed.number):
        return
    try:
        head = await mirror.fetch_branch(branch)
    except CommitVanished:
        return
    if not await reaches(mirror, head, claimed.sha):
        raise CommitVanished(endings.pushed_away(branch, head))


def _fill(
    connection: sqlite3.Connection,
    claimed: Claimed,
    branch: str,
    commits: Sequence[Commit],
    limit: int,
    context: str,
) -> int:
    at = now_ms()
    shas = [commit.sha for commit in commits]
    have = queue.numbers(connection, claimed.repository, shas)
    missing = [commit for commit in commits if commit.sha not in have]
    reason = f"over the limit of {limit} commits per push"
    queue.enqueue(
        connection,
        claimed.repository,
        branch,
        missing,
        cause=Cause.PUSH,
        head="",
        at=at,
        context=context,
        reasons=dict.fromkeys(shas[:-limit], reason),
    )
    branches.sort(connection, claimed.repository, branch, shas)
    return len(missing)


async def _skip_unreachable(
    database: Database, mirror: Mirror, claimed: Claimed, branch: str, context: str
) -> None:
    waiting = await database.read(
        branches.queued_below, claimed.repository, branch, claimed.number
    )
    if not waiting:
        return
    try:
        # This push may be old news: only the remote knows what its branch has now.
        head = await mirror.fetch_branch(branch)
    except CommitVanished:
        return
    gone = await left_behind(mirror, head, waiting)
    if gone:
        await database.write(
            endings.skip,
            gone,
            endings.pushed_away(branch, head),
            at=now_ms(),
            context=context,
        )
