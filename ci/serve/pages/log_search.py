"""Looking for some text in a log: plain, whatever the case, the failed ones first."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import repeat

from ci.serve.pages.ansi import stripped
from ci.serve.pages.log_file import Lines, Part

MOST = 1_000
"""So many hits are shown; the others are counted."""
_BEFORE, _AFTER = 100, 300
_MARK = re.compile(r"(?:build-server: |([0-9A-Za-z+\-._?=]{1,211})> )?")


@dataclass(frozen=True)
class Hit:
    """A line that has the text: what stands before, the text itself, what comes after.

    `time` is milliseconds since the epoch; None when not known, or not asked for.
    """

    number: int
    derivation: str
    before: str
    text: str
    after: str
    time: int | None = None


@dataclass(frozen=True)
class Found:
    """At most MOST hits, and how many lines have the text in all."""

    hits: tuple[Hit, ...]
    count: int


def search(part: Part, wanted: str, bad: Collection[str], *, marked: bool) -> Found:
    """Lines with `wanted`; those of derivations in `bad` first, else by number.

    Escapes are no text. `marked`: the name of the derivation in front is none either.
    """
    first: list[Hit] = []
    others: list[Hit] = []
    count = 0
    for lines in part.lines():
        for hit in _hits(lines, wanted.lower(), marked=marked):
            count += 1
            kept = first if hit.derivation in bad else others
            if len(kept) < MOST:
                kept.append(hit)
    return Found(tuple([*first, *others][:MOST]), count)


def split(line: str, *, marked: bool) -> tuple[str, str]:
    """(derivation, text) of a line; the derivation is empty where none is named."""
    found = _MARK.match(line) if marked else None
    return (found[1] or "", line[found.end() :]) if found else ("", line)


def _hits(lines: Lines, wanted: str, *, marked: bool) -> list[Hit]:
    text = stripped(lines.data.decode("utf-8", "replace"))
    if wanted not in text.lower():
        return []
    hits = []
    times = lines.times or repeat(None)
    for number, line, time in zip(lines.numbers, text.split("\n"), times, strict=False):
        if wanted not in line.lower():
            continue
        derivation, shown = split(line.removesuffix("\r"), marked=marked)
        at = shown.lower().find(wanted)
        if at >= 0:
            end = at + len(wanted)
            begin = max(0, at - _BEFORE)
            hits.append(
                Hit(
                    number,
                    derivation,
                    ("…" if begin else "") + shown[begin:at],
                    shown[at:end],
                    shown[end : end + _AFTER],
                    time,
                )
            )
    return hits
