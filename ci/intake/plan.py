"""What a push means for us: which commits get a build, which a reason why not.

Pure decisions over values. Nothing in a payload changes the configuration, and none of
its URLs is used: only names, ids and SHAs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ci.config import Repository
from ci.history.deliveries import Plan
from ci.intake.push import Ignored, Ping, Push, PushedCommit, PushedRepository

BRANCH = "refs/heads/"
TAG = "refs/tags/"

# https://docs.github.com/en/actions/managing-workflow-runs/skipping-workflow-runs
_MARKER = re.compile(
    r"\[(?:skip ci|ci skip|no ci|skip actions|actions skip)\]", re.IGNORECASE
)
_TRAILER = re.compile(r"skip-checks: ?true", re.IGNORECASE)


def decide(
    push: Push,
    repositories: Sequence[Repository],
    known: Mapping[int, str],
    context: str,
) -> Plan | Ignored:
    """Turn a push into the builds it asks for, or say why it asks for none.

    `known` is GitHub's repository id -> configured name; `context` is the name under
    which statuses are posted.
    """
    repository = find_repository(push.repository, repositories, known)
    if repository is None:
        return Ignored(f"repository {push.repository.full_name} is not configured here")
    reason = _unwanted(push, repository)
    if reason:
        return Ignored(reason, repository.name, _deleted(push, repository))
    commits = _commits(push)
    return Plan(
        repo=repository.name,
        github_id=push.repository.id,
        github_name=push.repository.full_name,
        branch=push.ref.removeprefix(BRANCH),
        commits=tuple(commit.commit() for commit in commits),
        reasons=reasons(commits, repository),
        head=push.after,
        policy=repository.policy,
        context=context,
    )


def greet(
    ping: Ping, repositories: Sequence[Repository], known: Mapping[int, str]
) -> Ignored:
    """What the person who has just made the webhook should read on GitHub's page."""
    pushed = ping.repository
    repository = pushed and find_repository(pushed, repositories, known)
    if pushed and not repository:
        return Ignored(f"repository {pushed.full_name} is not configured here")
    name = repository.name if repository else None
    if not ping.sends_pushes:
        return Ignored("this webhook does not send push events; choose them", name)
    return Ignored("ping: the webhook works", name)


def find_repository(
    pushed: PushedRepository,
    repositories: Sequence[Repository],
    known: Mapping[int, str],
) -> Repository | None:
    """By GitHub's id, which survives a rename; before that is known, by name."""
    remembered = known.get(pushed.id)
    for repository in repositories:
        if repository.name == remembered:
            return repository
    wanted = pushed.full_name.casefold()
    for repository in repositories:
        if repository.name.casefold() == wanted:
            return repository
    return None


def _unwanted(push: Push, repository: Repository) -> str:
    """Why the ref that moved is none of ours, or nothing."""
    if push.ref.startswith(TAG):
        return f"{push.ref} is a tag; only branches are built"
    if not push.ref.startswith(BRANCH):
        return f"{push.ref} is not a branch; only branches are built"
    branch = push.ref.removeprefix(BRANCH)
    if branch not in repository.branches:
        watched = ", ".join(repository.branches)
        return f"branch {branch} of {repository.name} is not built; built: {watched}"
    if _deleted(push, repository):
        return f"branch {branch} of {repository.name} was deleted"
    return ""


def _deleted(push: Push, repository: Repository) -> str | None:
    """The watched branch that the push took away, if it did."""
    branch = push.ref.removeprefix(BRANCH)
    gone = push.deleted or not push.after.strip("0")
    watched = push.ref.startswith(BRANCH) and branch in repository.branches
    return branch if gone and watched else None


def _commits(push: Push) -> list[PushedCommit]:
    """The commits the push added, oldest first, each once, the new head always last.

    A branch that only moved (made at, or forwarded to, commits that exist) has an empty
    list: then its head stands alone. `distinct` says nothing about this branch and is
    not looked at.
    """
    commits = {commit.id: commit for commit in push.commits}
    head = commits.pop(push.after, None) or push.head_commit
    if head is None or head.id != push.after:
        head = PushedCommit.unknown(push.after)
    return [*commits.values(), head]


def reasons(commits: Sequence[PushedCommit], repository: Repository) -> dict[str, str]:
    """SHA -> why a commit is not built; `commits` and the result are oldest first."""
    head = commits[-1]
    room = repository.max_commits_per_push
    found: dict[str, str] = {}
    for pushed in reversed(commits):
        if repository.skip_ci and asks_to_skip(pushed.message):
            reason = "its message asks to skip CI"
        elif repository.policy == "latest" and pushed is not head:
            reason = f"only the head of a push is built (policy latest): {head.id[:7]}"
        elif room == 0:
            limit = repository.max_commits_per_push
            reason = f"over the limit of {limit} commits per push"
        else:
            room -= 1
            continue
        found[pushed.id] = reason
    return dict(reversed(found.items()))


def asks_to_skip(message: str) -> bool:
    """Tell whether a commit message carries one of GitHub's own markers."""
    last = message.rstrip().rpartition("\n")
    return bool(
        _MARKER.search(message) or (last[1] and _TRAILER.fullmatch(last[2].strip()))
    )
