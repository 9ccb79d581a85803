"""Before a build: have the commit, and let git correct what the payload told.

A payload may be cut, arrive late or tell nothing about a rewritten branch; once the
commit is in the mirror, git knows which commits the push really added and which waiting
ones no longer exist on the branch (facts: GitHub cuts `commits` at 2048).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.config import Repository
from ci.errors import CommitVanished
from ci.history import branches, queue, states
from ci.history.database import Database
from ci.history.queue import Claimed
from ci.models import BuildState, Cause, Commit

# More than any payload tells, and a bound for one `git rev-list`.
MOST_COMMITS = 10_000


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
    if told != before and await _known(mirror, told, claimed.sha):
        before = told
    elif not await _known(mirror, before, claimed.sha):
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
    if not await _known(mirror, claimed.sha, head):
        raise CommitVanished(_gone(branch, head))


def _gone(branch: str, head: str) -> str:
    return f"no longer on {branch} after the force push to {head[:7]}"


async def _known(mirror: Mirror, old: str, new: str) -> bool:
    try:
        return await mirror.is_ancestor(old, new)
    except CommitVanished:
        return False


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
    gone = [
        number for number, sha in waiting if not await _known(mirror, sha, claimed.sha)
    ]
    if gone:
        await database.write(_skip, gone, branch, claimed.sha, context)


def _skip(
    connection: sqlite3.Connection,
    numbers: Sequence[int],
    branch: str,
    head: str,
    context: str,
) -> None:
    reason = _gone(branch, head)
    for number in numbers:
        if queue.waits(connection, number):
            states.end_queued(
                connection,
                number,
                BuildState.SKIPPED,
                reason=reason,
                at=now_ms(),
                context=context,
            )
