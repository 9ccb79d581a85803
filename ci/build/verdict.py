"""From how an attempt ended to one honest state. Pure: no clock, no database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ci.errors import (
    BuildCancelled,
    BuildInterrupted,
    CommitFault,
    CommitVanished,
    HostFault,
    RemoteDown,
)
from ci.models import BuildState, Target, combine


@dataclass(frozen=True)
class Retry:
    """The build may go back to the queue; see retries.py for when and how often.

    `counted`: a fault of ours; `remote`: the repository's remote is out of reach;
    `waited`: something else is, that others must put right. None: our own stop.
    """

    counted: bool
    remote: bool = False
    waited: bool = False


@dataclass(frozen=True)
class Ended:
    """How an attempt ended; with `retry`, `state` holds only if no try is left."""

    state: BuildState
    summary: str
    targets: tuple[Target, ...]
    retry: Retry | None = None


def decide(error: BaseException | None, targets: Sequence[Target]) -> Ended:
    """Map an exception (None: the builder returned `targets`) to the end of an attempt.

    Only CommitFault, and targets that the builder itself calls failed, become `failed`.
    An unknown exception is a defect of ours and so `error`.
    """
    match error:
        case None:
            return _of_targets(targets)
        case CommitFault():
            state, retry = BuildState.FAILED, None
        case BuildCancelled():
            state, retry = BuildState.CANCELLED, None
        case CommitVanished():
            state, retry = BuildState.SKIPPED, None
        case BuildInterrupted():
            state, retry = BuildState.ERROR, Retry(counted=False)
        case RemoteDown():
            state, retry = BuildState.ERROR, Retry(counted=False, remote=True)
        case HostFault():
            free = not error.counted
            state, retry = BuildState.ERROR, Retry(error.counted, waited=free)
        case _:
            sentence = f"internal error: {type(error).__name__}: {error}"
            retry = Retry(counted=True)
            closed = _closed(targets, BuildState.ERROR, sentence)
            return Ended(BuildState.ERROR, sentence, closed, retry)
    return Ended(state, str(error), _closed(targets, state, str(error)), retry)


def doubted(ended: Ended, fault: HostFault) -> Ended:
    """A failure that proves nothing, because of what was wrong with the host meanwhile."""
    targets = tuple(
        replace(target, state=BuildState.ERROR, error=f"{fault}: {target.error}")
        if target.state is BuildState.FAILED
        else target
        for target in ended.targets
    )
    return replace(decide(fault, targets), summary=f"{fault}: {ended.summary}")


def _of_targets(targets: Sequence[Target]) -> Ended:
    if all(target.state is BuildState.SKIPPED for target in targets):
        why = targets[0].error if targets else "there is none"
        sentence = f"no target can be built here: {why}"
        return Ended(BuildState.FAILED, sentence, tuple(targets))
    state = combine([target.state for target in targets])
    retry = None
    if state is BuildState.ERROR:
        retry = Retry(counted=True)
    return Ended(state, summarise(targets), tuple(targets), retry)


def _closed(
    targets: Sequence[Target], state: BuildState, reason: str
) -> tuple[Target, ...]:
    """Targets of an attempt that ended early: the undecided say what the build says."""
    return tuple(
        target if target.state.final else replace(target, state=state, error=reason)
        for target in targets
    )


def summarise(targets: Sequence[Target]) -> str:
    """`3 of 14 failed: checks.web: expected 200 …`, or `14 targets built`."""
    for state in (BuildState.FAILED, BuildState.ERROR):
        bad = [target for target in targets if target.state is state]
        if bad:
            first = f"{bad[0].name}: {bad[0].error}"
            return f"{len(bad)} of {len(targets)} {_WORD[state]}: {first}"
    left = sum(target.state is BuildState.SKIPPED for target in targets)
    built = f"{len(targets) - left} target{'s' * (len(targets) - left != 1)} built"
    return f"{built}, {left} not for this host" if left else built


_WORD = {BuildState.FAILED: "failed", BuildState.ERROR: "could not be built"}
