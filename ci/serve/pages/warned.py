"""What the evaluation and Nix warn of, each sentence once, with how often it came."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ci.serve.pages.excerpt import Numbered, Sources

WINDOW = 256 * 1024
"""Bytes of the beginning of a log that are looked through: builders write behind it."""
MOST = 20
"""Different warnings that are shown."""

# `builtins.warn`; `lib.warn` before Nix had that; Nix itself.
_WARNING = re.compile(
    r"(?:evaluation warning|trace: (?:evaluation )?warning|warning): "
)


@dataclass(frozen=True)
class Warned:
    """`line` is that of the first, from 1 on in the whole log."""

    text: str
    count: int
    line: int


async def find(path: Path | None) -> tuple[Warned, ...]:
    """The first MOST of the log of an attempt; `path` is None when there is none."""
    return () if path is None else await asyncio.to_thread(_find, path)


def _find(path: Path) -> tuple[Warned, ...]:
    try:
        return _found(path, min(path.stat().st_size, WINDOW))
    except FileNotFoundError:
        return ()


# A log only grows, so that its size tells what is in it.
@lru_cache(maxsize=64)
def _found(path: Path, size: int) -> tuple[Warned, ...]:
    with path.open("rb", buffering=0) as file:
        begin = os.pread(file.fileno(), size, 0)
    return count(Sources(begin, 1).unmarked) if b"warning: " in begin else ()


def count(lines: Numbered) -> tuple[Warned, ...]:
    """Of these lines those that warn."""
    found: dict[str, tuple[int, int]] = {}
    for number, line in lines:
        if warning := _WARNING.match(line):
            said = line[warning.end() :].strip()
            times, first = found.get(said, (0, number))
            if said and (times or len(found) < MOST):
                found[said] = (times + 1, first)
    return tuple(Warned(said, *told) for said, told in found.items())
