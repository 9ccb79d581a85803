"""What the private application answers and accepts, as pydantic models.

One class per answer: `/openapi.json` is made from them. Every key is always present;
what is not known yet is null. Keys may be added by later versions, never removed.
Times are RFC 3339 in UTC, durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from ci import models
from ci.config import names
from ci.models import BuildState, rfc3339

SHA_PREFIX = "^[0-9a-f]{7,64}$"

Moment = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "examples": ["2026-11-20T05:30:00.000Z"],
        }
    ),
]
LastStatus = Literal["success", "failed", "error", "cancelled"]

_LAST_STATUS: dict[BuildState, LastStatus] = {
    BuildState.SUCCEEDED: "success",
    BuildState.FAILED: "failed",
    BuildState.ERROR: "error",
    BuildState.CANCELLED: "cancelled",
}


class Shape(BaseModel):
    """Base of every answer."""

    model_config = ConfigDict(frozen=True)


class Target(Shape):
    """One flake attribute of a build."""

    name: str
    state: BuildState
    seconds: float | None
    error: str | None
    outputs: dict[str, str] = Field(description="output name to store path")


class Build(Shape):
    """One commit of one repository."""

    number: int
    repo: str
    branch: str | None = Field(description="null: asked for by its SHA")
    sha: str
    title: str
    author: str
    state: BuildState
    cause: str
    attempt: int = Field(description="tries begun; 0 while it waits for the first")
    queued_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    seconds: float | None
    summary: str
    url: str
    pinned: bool = Field(description="kept, with its results, until it is let go")
    targets: list[Target]

    @classmethod
    def of(cls, build: models.Build, public_url: str) -> Build:
        """The answer for one row of the history."""
        return cls(
            number=build.number,
            repo=build.repo,
            branch=build.branch,
            sha=build.sha,
            title=build.title,
            author=build.author,
            state=build.state,
            cause=str(build.cause),
            attempt=build.attempt,
            queued_at=rfc3339(build.queued_at) or "",
            started_at=rfc3339(build.started_at),
            finished_at=rfc3339(build.finished_at),
            seconds=rounded(build.seconds),
            summary=build.summary,
            url=f"{public_url}/builds/{build.number}",
            pinned=build.pinned,
            targets=[_target(target) for target in build.targets],
        )


class Builds(Shape):
    """A page of builds, newest first."""

    builds: list[Build]
    next: int | None = Field(description="give it as ?before= for the next page")
    searched_down_to: int | None = Field(
        description="with ?q=: the lowest number that was looked at for this page"
    )


class CommitBuilds(Shape):
    """The builds of one commit, newest first."""

    sha: str = Field(description="the SHA, or the beginning of it, as asked for")
    builds: list[Build]


class Deliveries(Shape):
    """Webhook deliveries of the last seven days that did not come at first, or came later."""

    missed: int
    recovered: int


class Status(Shape):
    """What runs, what waits, and how the newest finished build of the branch ended."""

    is_running: bool
    last_start: Moment | None
    last_finish: Moment | None
    last_status: LastStatus | None
    last_commit: str | None
    queue: list[Build]
    current: list[Build]
    last: Build | None
    deliveries: Deliveries


class Logs(Shape):
    """The end of a build's log."""

    logs: list[str]
    build: int | None


class Check(Shape):
    """One thing that can be wrong; `fix` says how to mend it."""

    name: str
    ok: bool
    detail: str
    fix: str


class Health(Shape):
    """Whether the service and what it leans on are well."""

    status: Literal["healthy", "degraded"]
    cache_running: bool
    checks: list[Check]


class TriggerAnswer(Shape):
    """What became of a trigger."""

    status: Literal["triggered", "already_running"]
    message: str
    build: Build | None = Field(description="null: recorded, not yet acted on")
    request: int


class Recorded(Shape):
    """A request that is written down and will be acted on."""

    message: str
    build: None
    request: int


class Cache(Shape):
    """The binary cache, as other machines reach it."""

    url: str
    public_key: str


class Repository(Shape):
    """One configured repository."""

    name: str
    url: str
    branches: list[str]


class Client(Shape):
    """What a new machine needs to know about this server."""

    server: str
    cache: Cache | None
    repositories: list[Repository]


class Finished(Shape):
    """One finished build of a trend."""

    number: int
    state: BuildState
    seconds: float | None


class Branch(Shape):
    """One watched branch and how its newest finished build ended."""

    repo: str
    branch: str
    last: Build | None
    broken_since: int | None = Field(
        description="the first failed build after `last_good`, while it is broken"
    )
    broken_sha: str | None = Field(description="the commit of `broken_since`")
    last_good: int | None = Field(
        description="while it is broken: the last good build among its newest 1,000 commits"
    )
    typical_seconds: float | None = Field(
        description="the median of the last 9 good builds"
    )
    pass_rate: float | None = Field(
        description="how many of `trend` succeeded, of those that were tried to the end"
    )
    trend: list[Finished] = Field(
        description="the newest 30 finished, oldest first, in the order of the branch"
    )


class Running(Shape):
    """How far a build of `current` is."""

    number: int
    elapsed_seconds: float
    expected_seconds: float | None = Field(
        description="the median of the branch's last good builds"
    )
    done: int = Field(description="so many of `total` are done")
    total: int = Field(description="0: not known yet")
    unit: Literal["derivations", "targets"]


class Overview(Shape):
    """The first page: what runs, what waits, how each branch is, the last builds."""

    version: str
    current: list[Build]
    queue: list[Build]
    branches: list[Branch]
    builds: list[Build]
    running: list[Running] = Field(description="how far those of `current` are")
    waits: str | None = Field(description="why no build begins now, if that is so")
    trouble: list[Check] = Field(description="the checks of `/health` that are not ok")


class Document(Shape):
    """An OpenAPI document."""

    model_config = ConfigDict(frozen=True, extra="allow")

    openapi: str


class Error(Shape):
    """Every answer from 400 on."""

    error: str = Field(description="one sentence for a person")
    status: int
    detail: dict[str, Any]


_Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class TriggerBody(BaseModel):
    """What `POST /build/trigger` may carry; every key may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    repo: _Name | None = Field(None, description="a repository by its configured name")
    ref: Annotated[_Name, AfterValidator(names.branch_name)] | None = Field(
        None, description="a branch by its name, such as dev"
    )
    rev: Annotated[str, StringConstraints(pattern=SHA_PREFIX)] | None = Field(
        None, description="a commit's SHA or its first 7 or more digits, in lower case"
    )
    targets: list[Annotated[_Name, AfterValidator(names.target_pattern)]] = Field(
        [],
        max_length=100,
        description='at most 100 patterns such as "packages.*" or "checks.web-test"',
    )
    force: bool = Field(
        False, description="true to build again what is built already, else false"
    )


def rounded(seconds: float | None) -> float | None:
    """Milliseconds are enough for a person."""
    return None if seconds is None else round(seconds, 3)


def last_status(build: models.Build | None) -> LastStatus | None:
    """The seed's word for a final state; a skipped build has none."""
    return None if build is None else _LAST_STATUS.get(build.state)


def _target(target: models.Target) -> Target:
    return Target(
        name=target.name,
        state=target.state,
        seconds=rounded(target.seconds),
        error=target.error,
        outputs=dict(target.outputs or {}),
    )
