"""What a trigger asks for, and the answer its row gets; no I/O but the database.

The row is answered in the transaction that enqueues the build, so that a crash leaves
it either open, to be worked on again, or answered for good.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ci.config import Repository, names
from ci.errors import CommitVanished, HostFault, NetworkDown, RequestError
from ci.history import builds, queue, repositories, requests, states
from ci.models import BuildState, Cause, Commit

_SHA = re.compile(r"[0-9a-f]{7,40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Wanted:
    """A trigger's body with its defaults filled in; `rev` is a SHA or its beginning."""

    repository: Repository
    branch: str
    rev: str | None
    targets: tuple[str, ...]
    force: bool


@dataclass(frozen=True)
class Found:
    """The commit that was meant; `older` ones (oldest first) were found on the way.

    `branch` is None for a commit that was asked for by its SHA.
    """

    commit: Commit
    branch: str | None = None
    older: tuple[Commit, ...] = ()


def read_body(body: Mapping[str, Any], configured: Sequence[Repository]) -> Wanted:
    """Fill in the defaults: the first repository, its first branch, its head.

    Raises RequestError 404 for an unknown repository, 400 for names that cannot be.
    """
    repository = _repository(body.get("repo"), configured)
    rev = body.get("rev")
    if rev is not None and not _SHA.fullmatch(rev):
        raise RequestError(400, "rev is a commit's SHA, or its first 7 or more digits")
    branch = body.get("ref") or repository.branches[0]
    targets = tuple(body.get("targets") or ())
    try:
        names.branch_name(branch)
        for target in targets:
            names.target_pattern(target)
    except ValueError as error:
        raise RequestError(400, str(error)) from None
    return Wanted(repository, branch, rev, targets, bool(body.get("force")))


def _repository(name: str | None, configured: Sequence[Repository]) -> Repository:
    for repository in configured:
        if name is None or repository.name.casefold() == name.casefold():
            return repository
    names_here = [repository.name for repository in configured]
    raise RequestError(
        404,
        f"repository {name} is not configured here; there are {', '.join(names_here)}",
        {"configured": names_here},
    )


def settle(
    connection: sqlite3.Connection,
    request: int,
    wanted: Wanted,
    found: Found,
    *,
    at: int,
    context: str,
) -> None:
    """Join, enqueue or reopen the commit's build, and answer the request with it."""
    repo, sha = wanted.repository.name, found.commit.sha
    build = builds.find(connection, repo, sha)
    if build is None or build.state is BuildState.SKIPPED:
        number = _enqueue(connection, wanted, found, at=at, context=context)
        status, message = "triggered", f"build {number} of {sha[:7]} is queued"
    elif not build.state.final:
        number, status = build.number, "already_running"
        message = f"build {number} of {sha[:7]} is {build.state} already"
    elif wanted.force:
        number, status = build.number, "triggered"
        states.reopen(
            connection, number, targets=wanted.targets, at=at, context=context
        )
        message = f"build {number} of {sha[:7]} is queued again"
    else:
        number, status = build.number, "already_built"
        message = (
            f"build {number} of {sha[:7]} has ended: {build.state}; "
            "use force to build it again"
        )
    answer = {"status": status, "message": message, "build": number}
    requests.answer(connection, request, at=at, answer=answer)


def _enqueue(
    connection: sqlite3.Connection,
    wanted: Wanted,
    found: Found,
    *,
    at: int,
    context: str,
) -> int:
    def enqueue(commits: Sequence[Commit], targets: Sequence[str]) -> list[int]:
        return queue.enqueue(
            connection,
            repositories.identify(connection, wanted.repository.name),
            found.branch,
            commits,
            cause=Cause.TRIGGER,
            head=found.commit.sha,
            at=at,
            context=context,
            targets=targets,
        )

    enqueue(found.older, ())
    return enqueue([found.commit], wanted.targets)[0]


def refusal(error: Exception) -> dict[str, Any]:
    """What the asker is told when it cannot be done; sentences are the errors' own."""
    match error:
        case RequestError():
            status, sentence, detail = error.status, error.message, error.detail
        case CommitVanished():
            status, sentence, detail = 404, str(error), {}
        case NetworkDown():
            status, sentence, detail = 502, str(error), {}
        case HostFault():
            status, sentence, detail = 503, str(error), {}
        case _:
            status, sentence, detail = 500, "the server failed; its log says why", {}
    return {"error": sentence, "status_code": status, "detail": detail}
