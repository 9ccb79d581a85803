"""BUILD as JSON: whole, as the server gave it, or only the fields asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable

from ci.client.builds import Build
from ci.client.exits import Exit, Failure
from ci.client.text import printable

FIELDS = (
    *("number", "repo", "branch", "sha", "title", "author", "state", "cause"),
    *("attempt", "queued_at", "started_at", "finished_at", "seconds", "summary"),
    *("url", "pinned", "targets"),
)
AROUND = (
    *("last_good", "broken_since", "newest", "older", "newer", "expected_seconds"),
    *("waits", "waited_seconds", "derivations", "steps", "errors", "reproduce"),
    *("fetchable", "compare", "log", "log_removed", "attempts"),
)
"""What the server tells of one build, and not of those in a list."""
FAILED = "failed"
"""A field of our own: the names of the targets that failed."""

_UNPRINTABLE = r"[^ -~\n]"


def fields(chosen: str) -> tuple[str, ...]:
    """`number,state` as a tuple; empty for all of them."""
    return tuple(name.strip() for name in chosen.split(",") if name.strip())


def check(chosen: str | None) -> None:
    """Raise Failure (usage) for unknown fields before anything is asked for."""
    _refuse_unknown(fields(chosen or ""), (*FIELDS, FAILED))


def entry(build: Build | None, chosen: str) -> dict[str, object] | None:
    """What to print of a build; raises Failure (usage) for a field that is not there."""
    wanted = fields(chosen)
    if build is None or not wanted:
        return None if build is None else build.raw
    known = {**build.raw, FAILED: [each.name for each in build.failing]}
    _refuse_unknown(wanted, known)
    return {name: known[name] for name in wanted}


def _refuse_unknown(wanted: Iterable[str], known: Collection[str]) -> None:
    for name in wanted:
        if name not in known:
            names = printable(", ".join(known))
            sentence = f"no field {printable(name)} in --json; there are {names}"
            raise Failure(Exit.USAGE, sentence)


def dump(value: object, *, pretty: bool) -> str:
    """JSON that is safe on a terminal: what is not printable is escaped in it."""
    text = json.dumps(value, ensure_ascii=False, indent=2 if pretty else None)
    return re.sub(_UNPRINTABLE, _escaped, text)


def dump_all(builds: Iterable[Build], chosen: str, *, pretty: bool) -> str:
    """A list of builds."""
    return dump([entry(build, chosen) for build in builds], pretty=pretty)


def _escaped(found: re.Match[str]) -> str:
    char = found[0]
    return char if char.isprintable() else json.dumps(char)[1:-1]
