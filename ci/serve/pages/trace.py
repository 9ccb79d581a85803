"""The timeline of an attempt as a trace, for the viewers of other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ci.serve.pages.shown import HERE, WORDS, Shown

Event = dict[str, object]


def trace(shown: Shown) -> bytes:
    """Chrome's trace event format (complete events): Perfetto and others open it."""
    events = [*_named_lanes(shown), *_step_events(shown), *_stay_events(shown)]
    about = {"build": shown.build.number, "repo": shown.build.repo}
    whole = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def _named_lanes(shown: Shown) -> Iterator[Event]:
    names = ["build-server", *(machine or HERE for machine in shown.lanes)]
    for number, name in enumerate(names):
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}


def _step_events(shown: Shown) -> Iterator[Event]:
    for (name, seconds), at in zip(shown.steps, shown.step_begins, strict=True):
        yield _complete(name, "step", at, seconds, 0, 0)


def _stay_events(shown: Shown) -> Iterator[Event]:
    for process, rows in enumerate(shown.lanes.values(), 1):
        for lane, row in enumerate(rows, 1):
            for stay in row:
                seconds = stay.seconds(shown.now)
                event = _complete(
                    stay.name, "derivation", stay.started_at, seconds, process, lane
                )
                event["args"] = {
                    "path": stay.path,
                    "state": WORDS[shown.state(stay)],
                    "critical": stay.path in shown.critical,
                    "why": shown.why(stay),
                    "needs": [shown.names.get(path, path) for path in stay.needs],
                }
                yield event


def _complete(
    name: str, kind: str, at: int, seconds: float, process: int, lane: int
) -> Event:
    """One event from beginning to end; the format counts microseconds."""
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "ts": at * 1000,
        "dur": round(seconds * 1_000_000),
        "pid": process,
        "tid": lane,
    }
