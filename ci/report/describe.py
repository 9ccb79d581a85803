"""A build in one line of at most 140 characters: what GitHub shows beside the tick.

The link opens inside the tailnet only, so this line carries the answer itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ci.models import (
    Build,
    BuildState,
    StatusState,
    human_seconds,
    status_state,
)

# https://github.com/zalando/zappr/issues/378
LIMIT = 140
SHORT_SHA = 7
# A status that comes later than this says so.
LATE_SECONDS = 600

_SEPARATOR = " · "
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")
_EXIT_CODE = re.compile(
    r"^(dependency \S+ failed: )?(?:builder failed with )?exit code \d+: (?=\S)"
)
_TO_PASTE = re.compile(r'hash mismatch: write hash = "[^"]{1,100}"')
_JOINER = "\u200d"


def describe(build: Build, *, broken_since: Build | None, now_ms: int) -> str:
    """The line for the build as it is now; `broken_since` is the branch's first bad one.

    `now_ms` is when it will be read first: a verdict that GitHub gets late says so.
    """
    match build.state:
        case BuildState.QUEUED:
            again = f"attempt {build.attempt + 1}" if build.attempt else ""
            return fit("queued", [again])
        case BuildState.RUNNING:
            return fit("building", [_attempt(build), _waited(build)])
        case BuildState.SUCCEEDED:
            details = [_took(build), _fetched(build), _late(build, now_ms)]
            return fit(_built(build), details)
        case BuildState.FAILED:
            return _failure(build, broken_since, now_ms)
        case BuildState.ERROR:
            reason = build.summary or "the build server failed"
            details = [_took(build), _late(build, now_ms)]
            return fit(f"⚠ not your commit: {reason}", details)
        case BuildState.CANCELLED:
            return fit(_said("cancelled", build.summary), [])
        case BuildState.SKIPPED:
            return fit(_said("skipped", build.summary), [])


def describe_target(build: Build, name: str, state: StatusState) -> str:
    """The line for one target's own context."""
    target = next((each for each in build.targets if each.name == name), None)
    took = human_seconds(target.seconds) if target and target.seconds else ""
    if state is StatusState.SUCCESS:
        return fit(
            "✓ builds" if target else "✓ not part of this build any more", [took]
        )
    return _bad("", target.error if target else None, [took])


def describe_past(build: Build, state: StatusState) -> str:
    """The line for a verdict that the build has left behind since: it is built again."""
    mark = "✓" if state is StatusState.SUCCESS else "✗"
    again = build.attempt + (build.state is BuildState.QUEUED)
    return fit(f"{mark} {state}", [f"being built again, attempt {again}"])


def matches(build: Build, state: StatusState) -> bool:
    """Whether the build as it is now is what `state` tells of it."""
    return status_state(build.state, pending_posted=True) is state


def fit(head: str, details: Sequence[str], *, needed: int = LIMIT // 2) -> str:
    """`head · detail · detail` within the limit: the head gives way, at worst details.

    Of the head the first `needed` characters are worth more than any detail.
    """
    kept = [plain(detail) for detail in details if detail]
    head = plain(head)
    room = LIMIT - min(needed, LIMIT)
    while kept and len(_SEPARATOR + _SEPARATOR.join(kept)) > room:
        kept.pop()
    tail = "".join(_SEPARATOR + detail for detail in kept)
    return clip(head, LIMIT - len(tail)) + tail


def clip(text: str, limit: int) -> str:
    """At most `limit` characters, never half of what a reader sees as one."""
    if len(text) <= limit:
        return text
    end = limit - 1
    while end > 0 and (_extends(text[end]) or text[end - 1] in (_JOINER, " ")):
        end -= 1
    return text[:end] + "…"


def plain(text: str) -> str:
    """One line of characters that GitHub takes and no terminal or page obeys.

    GitHub refuses what needs four bytes in UTF-8
    (https://github.com/ouzi-dev/commit-status-updater/issues/526).
    """
    text = _ESCAPES.sub("", text)
    kept = (c if c.isprintable() or c == _JOINER else " " for c in text)
    narrow = "".join(c if c <= "\uffff" else "\ufffd" for c in kept)
    return " ".join(narrow.split())


def _extends(character: str) -> bool:
    return character == _JOINER or unicodedata.category(character) in ("Mn", "Me", "Mc")


def _failure(build: Build, broken_since: Build | None, now_ms: int) -> str:
    failing = [each for each in build.targets if each.state is BuildState.FAILED]
    details = [_took(build), _since(build, broken_since), _late(build, now_ms)]
    if not failing:
        return fit(f"✗ {build.summary or 'failed'}", details)
    first = failing[0]
    count = f"{len(failing)} of {len(build.targets)} failed"
    return _bad(f"{first.name}: ", first.error, [count, *details])


def _bad(name: str, error: str | None, details: Sequence[str]) -> str:
    """A failure with its essence first; a hash to paste is shown in full if it can be."""
    essence = plain(_essence(error))
    head = f"✗ {plain(name)} {essence}" if name else f"✗ {essence}"
    paste = _TO_PASTE.search(head)
    return fit(head, details, needed=max(LIMIT // 2, paste.end() if paste else 0))


def _essence(error: str | None) -> str:
    """An error without its exit code, where the builder's own words follow it.

    Nor with the names of dependencies before a hash that is to be pasted.
    """
    error = _EXIT_CODE.sub(r"\1", error or "failed")
    mismatch = _TO_PASTE.search(error)
    return error[mismatch.start() :] if mismatch else error


def _built(build: Build) -> str:
    built = sum(each.state is BuildState.SUCCEEDED for each in build.targets)
    if not built:
        return "✓ built"
    return f"✓ {built} target{'' if built == 1 else 's'}"


def _fetched(build: Build) -> str:
    """What the cache said, which the summary has after its first words."""
    return build.summary.partition(_SEPARATOR)[2]


def _took(build: Build) -> str:
    return "" if build.seconds is None else human_seconds(build.seconds)


def _attempt(build: Build) -> str:
    return f"attempt {build.attempt}" if build.attempt > 1 else ""


def _waited(build: Build) -> str:
    waited = ((build.started_at or build.queued_at) - build.queued_at) / 1000
    return f"waited {human_seconds(waited)}" if waited >= 60 else ""


def _late(build: Build, now_ms: int) -> str:
    late = (now_ms - (build.finished_at or now_ms)) / 1000
    return f"told {human_seconds(late)} late" if late >= LATE_SECONDS else ""


def _since(build: Build, broken_since: Build | None) -> str:
    if broken_since is None or broken_since.number == build.number:
        return ""
    return f"since {broken_since.sha[:SHORT_SHA]}"


def _said(word: str, reason: str) -> str:
    """`reason` begins with the word, or follows it."""
    if not reason:
        return word
    return reason if reason.startswith(word) else f"{word}: {reason}"
