"""The page of a build for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator

from ci.models import BuildState, Target, human_seconds
from ci.serve import text
from ci.serve.pages.build_facts import Facts
from ci.text import printable

WIDTH = 80
_OPEN = (BuildState.FAILED, BuildState.ERROR, BuildState.RUNNING, BuildState.QUEUED)


def render(facts: Facts) -> str:
    """The same facts in the same order; commands and addresses stay in one line."""
    parts = (
        _head(facts),
        _errors(facts),
        _targets(facts.build.targets),
        _context(facts),
        _warnings(facts),
        _times(facts),
        _commands(facts),
        _links(facts),
    )
    return "".join(line + "\n" for part in parts for line in part)


def _head(facts: Facts) -> Iterator[str]:
    build, shape = facts.build, facts.shape
    yield text.headline(build)
    if build.state is BuildState.ERROR:
        yield "  not your commit"
    who = [build.repo, build.author and f"by {build.author}", build.cause]
    yield from _wrapped(" · ".join(part for part in who if part))
    if facts.progress:
        yield from _wrapped(facts.progress)
    elif build.summary:
        yield from _wrapped(build.summary)
    if shape.waits:
        yield from _wrapped(f"waits: {shape.waits}")


def _errors(facts: Facts) -> Iterator[str]:
    for error in facts.shape.errors:
        where = f" · log line {error.line}" if error.line else ""
        yield from _wrapped(f"first error: {error.target or 'the build'}{where}")
        for line in error.lines:
            yield f"      {printable(line)}".rstrip()


def _targets(targets: Iterable[Target]) -> Iterator[str]:
    targets = list(targets)
    if not targets:
        return
    states = Counter(target.state for target in targets)
    tally = "  ".join(f"{text.SYMBOLS[s]} {n} {s}" for s, n in states.items())
    yield f"  {len(targets)} target{'' if len(targets) == 1 else 's'}  {tally}"
    for target in in_order(targets):
        took = "" if target.seconds is None else f"  {human_seconds(target.seconds)}"
        yield f"  {text.SYMBOLS[target.state]} {printable(target.name)}{took}"
        for line in (target.error or "").splitlines()[: text.ERROR_LINES]:
            yield from _wrapped(line, "      ")
        for output, path in (target.outputs or {}).items():
            yield f"      {printable(output)} {printable(path)}"


def in_order(targets: Iterable[Target]) -> list[Target]:
    """What failed first, then errors, what runs, what waits, and the rest as it was."""
    return sorted(
        targets,
        key=lambda t: _OPEN.index(t.state) if t.state in _OPEN else len(_OPEN),
    )


def _context(facts: Facts) -> Iterator[str]:
    around, shape = facts.around, facts.shape
    for label, build in (
        ("last good", around.last_good),
        ("broken since", around.broken_since),
    ):
        if build is not None:
            here = " (this commit)" if build.number == facts.build.number else ""
            yield f"  {label} #{build.number} {build.sha[:7]}{here}"
    if shape.compare:
        yield f"  changes {shape.compare}"


def _warnings(facts: Facts) -> Iterator[str]:
    for each in facts.shape.warnings:
        times = f" ({each.count} times)" if each.count > 1 else ""
        yield from _wrapped(f"warning{times} · log line {each.line}: {each.text}")


def _times(facts: Facts) -> Iterator[str]:
    if facts.times:
        parts = [f"{part.name} {human_seconds(part.seconds)}" for part in facts.times]
        yield from _wrapped("times: " + " · ".join(parts))


def _commands(facts: Facts) -> Iterator[str]:
    shape = facts.shape
    if shape.fetchable:
        yield from _wrapped(f"cache: {shape.fetchable}")
    if shape.reproduce:
        yield "  do it yourself:"
    for command in shape.reproduce:
        yield f"      {printable(command)}"


def _links(facts: Facts) -> Iterator[str]:
    shape = facts.shape
    for attempt in shape.attempts[1:]:
        took = "" if attempt.seconds is None else f" {human_seconds(attempt.seconds)}"
        told = f"attempt {attempt.number} {attempt.outcome or 'cut short'}{took}"
        yield from _wrapped(f"{told}: {attempt.reason}" if attempt.reason else told)
        yield f"      {attempt.log or 'its log was removed'}"
    beside = [
        f"{name} #{number}"
        for name, number in (("older", shape.older), ("newer", shape.newer))
        if number is not None
    ]
    if beside:
        yield "  " + " · ".join(beside)
    if shape.log_removed:
        yield from _wrapped(f"log {shape.log_removed}")
    yield f"  {shape.url}    log {shape.log}"


def _wrapped(sentence: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        printable(sentence),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
