"""The first error: the lines of a log that say why a target failed.

A builder's lines are marked with the name of its derivation; what the evaluation says is
not marked, and what the server says begins with its name. The line wanted is the one that
holds the message of the target's error; the lines of the same source before it are shown
with it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ci.models import derivation_name
from ci.serve.pages.log_marks import marks
from ci.text import printable

LINES = 12
"""At most so many lines are shown of one error."""
WINDOW = 1024 * 1024
"""Bytes of the end of a log that are looked through."""
LONGEST = 500
"""Characters of one line that are shown."""
SHORTEST = 4
"""A shorter line is part of too many messages to be taken for one."""
TELLING = 12
"""A shorter part of a message may be met anywhere."""
OURS = b"build-server: "

_AFTER = 7
_MARKED = re.compile(rb"([0-9A-Za-z+._?=-]+)> ")
_DEPENDENCY = re.compile(r"dependency (\S+) failed")
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)?")


Numbered = list[tuple[int, str]]


@dataclass(frozen=True)
class Wanted:
    """What failed and how it says so; `derivation` is a store path.

    `target` is empty for a build that failed before it had targets. `whole`: a command
    wrote the whole log.
    """

    target: str
    error: str
    derivation: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class Excerpt:
    """At most LINES lines of text; `line` is the number of the one that says it.

    Lines are counted from 1 in the whole log. None: the log does not hold the lines
    shown, which then are the error itself. `hit` is the index of that one in `lines`.
    """

    target: str
    line: int | None
    lines: tuple[str, ...]
    hit: int = 0


async def find(path: Path | None, wanted: Sequence[Wanted]) -> tuple[Excerpt, ...]:
    """An excerpt for each; `path` is the log of the attempt, None when there is none."""
    if not wanted:
        return ()
    return await asyncio.to_thread(_find, path, tuple(wanted))


def _find(path: Path | None, wanted: tuple[Wanted, ...]) -> tuple[Excerpt, ...]:
    if path is not None:
        try:
            return _found(path, path.stat().st_size, wanted)
        except FileNotFoundError:
            pass
    return tuple(_without_log(each) for each in wanted)


# A log only grows, so that its size tells what is in it.
@lru_cache(maxsize=64)
def _found(path: Path, size: int, wanted: tuple[Wanted, ...]) -> tuple[Excerpt, ...]:
    start = max(0, size - WINDOW)
    with path.open("rb", buffering=0) as file:
        first = 1 + marks(path).newlines(start)
        end = os.pread(file.fileno(), size - start, start)
    sources = Sources(end, first)
    return tuple(_excerpt(each, sources) for each in wanted)


class Sources:
    """The lines of a log by who wrote them, numbered, as text where they are asked for."""

    def __init__(self, log: bytes, first: int) -> None:
        self._raw = log.removesuffix(b"\n").split(b"\n")
        self._first = first
        self._builders: dict[bytes, list[int]] = {}
        self._rest: list[int] = []
        for index, line in enumerate(self._raw):
            marked = _MARKED.match(line)
            mine = self._builders.setdefault(marked[1], []) if marked else self._rest
            mine.append(index)

    def builder(self, name: str) -> Numbered:
        """What the builder of that derivation wrote, without its mark."""
        mark = len(name) + 2
        indices = self._builders.get(name.encode(errors="replace"), [])
        return [(self._first + i, _text(self._raw[i][mark:])) for i in indices]

    @cached_property
    def unmarked(self) -> Numbered:
        """What no builder wrote: the evaluation, the daemon, git."""
        return self._others(self._rest, ours=False)

    @cached_property
    def whole(self) -> Numbered:
        """Everything but our own notes: for a command, which marks nothing."""
        return self._others(range(len(self._raw)), ours=False)

    @cached_property
    def notes(self) -> Numbered:
        """What the server itself says; the last of it is the verdict."""
        return self._others(self._rest, ours=True)

    def _others(self, indices: Iterable[int], *, ours: bool) -> Numbered:
        return [
            (self._first + i, _text(self._raw[i]))
            for i in indices
            if self._raw[i].startswith(OURS) is ours
        ]


def _excerpt(wanted: Wanted, sources: Sources) -> Excerpt:
    own = _own(wanted, sources)
    for texts in (own, [] if wanted.whole else sources.unmarked):
        at = _message(texts, wanted.error)
        if at is not None:
            return _cut(wanted.target, texts, at, at + 1 + _position(texts, at))
    for at in range(len(own) - 1, -1, -1):
        if any(char.isalnum() for char in own[at][1]):
            return _cut(wanted.target, own, at, at + 1)
    if wanted.derivation is None and not wanted.whole:
        texts = sources.unmarked
        for at in range(len(texts) - 1, -1, -1):
            if texts[at][1].startswith("error:"):
                return _cut(wanted.target, texts, at, at + 1 + _position(texts, at))
    for texts in (sources.notes[:-1], sources.notes):
        at = _message(texts, wanted.error)
        if at is not None:
            return Excerpt(wanted.target, texts[at][0], (texts[at][1],))
    return _without_log(wanted)


def _own(wanted: Wanted, sources: Sources) -> Numbered:
    """The lines of the derivation that failed: the target's own, or what it needs."""
    if wanted.whole:
        return sources.whole
    if wanted.derivation is None:
        return []
    behind = _DEPENDENCY.match(wanted.error)
    name = behind[1].removesuffix(".drv") if behind else None
    return sources.builder(name or derivation_name(wanted.derivation))


def _message(texts: Numbered, error: str) -> int | None:
    """The index of the line that holds most of the message; of equals the last."""
    parts = _parts(error)
    best, most = None, SHORTEST
    for index, (_, line) in enumerate(texts):
        line = _squeezed(line).removeprefix("error: ")
        held = len(line) if line in parts[0] else 0
        for part in parts:
            if len(part) > held and part in line:
                held = len(part)
                break
        if held >= most:
            best, most = index, held
    return best


def _parts(error: str) -> list[str]:
    """The message, and what is left of it behind each colon while that says enough."""
    parts = [_squeezed(_ESCAPES.sub("", error)).removesuffix("…")]
    while len(rest := parts[-1].partition(": ")[2]) >= TELLING:
        parts.append(rest)
    return parts


def _position(texts: Numbered, at: int) -> int:
    """How many lines after the message of an evaluation say where it comes from."""
    if not texts[at][1].startswith("error:"):
        return 0
    after = 0
    for _, line in texts[at + 1 : at + 1 + _AFTER]:
        if line and not line.startswith(" "):
            break
        after += 1
    return after


def _cut(target: str, texts: Numbered, at: int, end: int) -> Excerpt:
    begin = max(0, end - LINES)
    while end > at + 1 and not texts[end - 1][1]:
        end -= 1
    while begin < at and not texts[begin][1]:
        begin += 1
    shown = tuple(line for _, line in texts[begin:end])
    return Excerpt(target, texts[at][0], shown, at - begin)


def _without_log(wanted: Wanted) -> Excerpt:
    lines = [_text(line.encode(errors="replace")) for line in wanted.error.split("\n")]
    return Excerpt(wanted.target, None, tuple(lines[:LINES]))


def _text(raw: bytes) -> str:
    """One line as a terminal would leave it: what `\\r` overwrote and colours are gone."""
    last = raw.rstrip(b"\r").rpartition(b"\r")[2]
    text = _ESCAPES.sub("", last[: 4 * LONGEST].decode(errors="replace"))
    text = printable(text.expandtabs(8)).rstrip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _squeezed(text: str) -> str:
    return " ".join(text.split())
