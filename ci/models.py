"""The nouns of the system as frozen values, and the table of allowed state changes.

Nothing here does I/O. Times are milliseconds since the Unix epoch, UTC (`*_at`);
durations are seconds (`seconds`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from ci.errors import ForbiddenTransition


class BuildState(StrEnum):
    """What a build (or one of its targets) is, in our words."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def final(self) -> bool:
        return self not in (BuildState.QUEUED, BuildState.RUNNING)


class StatusState(StrEnum):
    """What GitHub calls the state of a commit status."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"


class Cause(StrEnum):
    """Why a build exists."""

    PUSH = "push"
    TRIGGER = "trigger"
    RECONCILE = "reconcile"
    UPDATE = "update"


class Outcome(StrEnum):
    """How one attempt ended.

    `interrupted` is our own stop, crash or a remote out of reach; `waited` in vain for
    something else that others must put right (an input's server, the Nix daemon).
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    WAITED = "waited"


class RequestKind(StrEnum):
    """What a person can ask of the server."""

    TRIGGER = "trigger"
    CANCEL = "cancel"
    RETRY = "retry"


FINAL_STATES = frozenset(state for state in BuildState if state.final)

TRANSITIONS: Mapping[BuildState, frozenset[BuildState]] = {
    BuildState.QUEUED: frozenset(
        {BuildState.RUNNING, BuildState.CANCELLED, BuildState.SKIPPED}
    ),
    BuildState.RUNNING: FINAL_STATES | {BuildState.QUEUED},
    **{state: frozenset({BuildState.QUEUED}) for state in FINAL_STATES},
}


def check_transition(old: BuildState, new: BuildState) -> None:
    """Raise ForbiddenTransition unless the table allows `old` to become `new`."""
    if new not in TRANSITIONS[old]:
        raise ForbiddenTransition(f"a {old} build cannot become {new}")


_STATUS: Mapping[BuildState, StatusState | None] = {
    BuildState.QUEUED: StatusState.PENDING,
    BuildState.RUNNING: StatusState.PENDING,
    BuildState.SUCCEEDED: StatusState.SUCCESS,
    BuildState.FAILED: StatusState.FAILURE,
    BuildState.ERROR: StatusState.ERROR,
    BuildState.CANCELLED: StatusState.ERROR,
    BuildState.SKIPPED: None,
}


def status_state(
    state: BuildState, *, pending_posted: bool = False
) -> StatusState | None:
    """GitHub's word for ours; a skipped build has one only to close a posted pending."""
    if state is BuildState.SKIPPED and pending_posted:
        return StatusState.ERROR
    return _STATUS[state]


def combine(states: list[BuildState]) -> BuildState:
    """The verdict over the targets: any failed one wins, then any error.

    `cancelled` and `skipped` targets decide nothing; no target at all is `succeeded`
    only because the caller has already refused an empty match.
    """
    if BuildState.FAILED in states:
        return BuildState.FAILED
    if BuildState.ERROR in states:
        return BuildState.ERROR
    return BuildState.SUCCEEDED


def rfc3339(milliseconds: int | None) -> str | None:
    """`2026-11-20T05:30:00.000Z` for milliseconds since the epoch; None stays None."""
    if milliseconds is None:
        return None
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Kept, because the lines of a log come many in one second."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat()[:19]


def human_seconds(seconds: float) -> str:
    """Two units at most: `0.2s`, `8s`, `3m 12s`, `1h 4m`, `2d 3h`."""
    whole = int(seconds)
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f}s"
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def derivation_name(path: str) -> str:
    """`/nix/store/<hash>-web-1.2.drv` -> `web-1.2`: how its lines are marked in the log."""
    return path.rpartition("/")[2].partition("-")[2].removesuffix(".drv")


def building(done: int, total: int) -> str:
    """How the summary of a build begins while its derivations are built."""
    return f"building: {done} of {total} derivations"


def derivations_built(summary: str) -> tuple[int, int] | None:
    """(done, total) of a summary that begins as `building` writes it."""
    found = re.match(r"building: (\d+) of (\d+) derivations", summary)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True)
class Commit:
    """One commit as git or a payload tells it; `title` is the first line of its message."""

    sha: str
    title: str
    author: str
    message: str = ""


@dataclass(frozen=True)
class Target:
    """One flake attribute of a build, as the history keeps it."""

    name: str
    state: BuildState
    seconds: float | None = None
    error: str | None = None
    outputs: Mapping[str, str] | None = None
    derivation: str | None = None


@dataclass(frozen=True)
class Build:
    """One commit of one repository, numbered; `repo` is its configured name."""

    number: int
    repo: str
    branch: str | None
    sha: str
    title: str
    author: str
    state: BuildState
    cause: str
    attempt: int
    queued_at: int
    started_at: int | None
    finished_at: int | None
    seconds: float | None
    summary: str
    targets: tuple[Target, ...] = ()
    requested_targets: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong: what was seen and, when not ok, how to mend it."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
