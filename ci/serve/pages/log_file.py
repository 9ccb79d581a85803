"""Lines of a log file by number, however long the file, the lines or their number.

Read in pieces of whole lines, from a mark that is not far before the first that is wanted.
Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ci.adapters.logs import Times
from ci.serve.pages.log_marks import marks

PIECE = 256 * 1024
# Of a line that is longer the beginning is kept.
ENDLESS = 1024 * 1024
KEPT = 64 * 1024
# What a page holds as it is; of more than this only the two ends.
MOST_LINES, MOST_BYTES = 100_000, 16 << 20
HEAD_LINES, HEAD_BYTES = 2_000, 1 << 20
TAIL_LINES, TAIL_BYTES = 20_000, 8 << 20


@dataclass(frozen=True)
class Lines:
    """Some lines: `numbers` count from 1 in the whole log, `data` joins by newlines.

    `times` are milliseconds since the epoch, None where not known; empty unless wanted.
    """

    numbers: Sequence[int]
    data: bytes
    times: Sequence[int | None] = ()

    def some(self, first: int, last: int) -> Lines:
        """Those from index `first` to before index `last`."""
        if first <= 0 and last >= len(self.numbers):
            return self
        first = max(0, first)
        kept = self.data.split(b"\n")[first:last]
        times = self.times[first:last]
        return Lines(self.numbers[first:last], b"\n".join(kept), times)

    def of(self, name: str | None) -> Lines:
        """Those that a derivation of that name wrote; all for None."""
        if name is None:
            return self
        mark = re.escape(name.encode(errors="replace"))
        numbers, found, at, number = [], [], 0, self.numbers[0]
        for match in re.finditer(rb"^" + mark + rb"> .*", self.data, re.MULTILINE):
            number += self.data.count(b"\n", at, match.start())
            at = match.start()
            numbers.append(number)
            found.append(match[0])
        times = [self.times[each - self.numbers[0]] for each in numbers if self.times]
        return Lines(numbers, b"\n".join(found), times)


@dataclass(frozen=True)
class Part:
    """Which part of a log: one derivation's lines, a range of numbers, or both.

    `end` is the byte to stop before; `last` the last line number, None for the log's.
    `timed`: its lines have times.
    """

    path: Path
    end: int
    name: str | None = None
    first: int = 1
    last: int | None = None
    timed: bool = False

    def lines(self) -> Iterator[Lines]:
        """All of them in order, piece by piece; raises OSError when the log has gone."""
        times = Times(self.path) if self.timed else None
        for piece in _pieces(self.path, self.end, self.first, times):
            first, last = piece.numbers[0], piece.numbers[-1]
            if self.last is not None and first > self.last:
                return
            if last < self.first:
                continue
            stop = len(piece.numbers) if self.last is None else self.last - first + 1
            found = piece.some(self.first - first, stop)
            # Nothing is left of it when the range ends before it begins.
            if found.numbers and (found := found.of(self.name)).numbers:
                yield found


@dataclass(frozen=True)
class Extent:
    """How many lines there are, and how many bytes with their newlines."""

    lines: int
    size: int

    @property
    def fits(self) -> bool:
        return self.lines <= MOST_LINES and self.size <= MOST_BYTES


def measure(part: Part) -> Extent:
    """Count a part of a log. All lines are as long as they are, of one writer as read."""
    lines = size = 0
    if part.name is None:
        first, last = _range(part)
        begin, end = (_begins(part, line) for line in (first, last + 1))
        return Extent(max(0, last - first + 1), max(0, end - begin))
    for piece in part.lines():
        lines += len(piece.numbers)
        size += len(piece.data) + 1
    return Extent(lines, size)


def ends(part: Part) -> Iterator[tuple[bool, Lines]]:
    """(whether it is of the head, lines): all when they fit, else the two ends.

    Of each end there is at least one line.
    """
    extent = measure(part)
    if extent.fits:
        yield from ((True, piece) for piece in part.lines())
    elif part.name is None:
        yield from _ends_of_all(part)
    else:
        yield from _ends_of_one(part, extent)


def _ends_of_all(part: Part) -> Iterator[tuple[bool, Lines]]:
    """The two ends; what lies between is not read."""
    first, last = _range(part)
    head = replace(part, last=first + HEAD_LINES - 1)
    for piece in _beginning(head):
        yield True, piece
        first = piece.numbers[-1] + 1
    least = max(0, _begins(part, last + 1) - TAIL_BYTES)
    # The line that goes on there has begun too early.
    fitting = marks(part.path).newlines(max(0, least - 1)) + 2 if least else 1
    tail = min(last, max(fitting, last - TAIL_LINES + 1))
    yield from (
        (False, piece) for piece in replace(part, first=max(first, tail)).lines()
    )


def _beginning(part: Part) -> Iterator[Lines]:
    """The first lines, HEAD_BYTES at most, but one in any case."""
    size = 0
    for piece in part.lines():
        for index, line in enumerate(piece.data.split(b"\n")):
            size += len(line) + 1
            if size > HEAD_BYTES and (index or piece.numbers[0] > part.first):
                if index:
                    yield piece.some(0, index)
                return
        yield piece


def _range(part: Part) -> tuple[int, int]:
    """The first and the last line of a part that is no derivation's."""
    total = marks(part.path).newlines(part.end)
    if _begins(part, total + 1) < part.end:
        total += 1
    return part.first, total if part.last is None else min(part.last, total)


def _begins(part: Part, line: int) -> int:
    return marks(part.path).begins(line, part.end)


def _ends_of_one(part: Part, extent: Extent) -> Iterator[tuple[bool, Lines]]:
    """The two ends of one derivation's lines, which can be anywhere."""
    lines = size = 0
    for piece in part.lines():
        count, sized = len(piece.numbers), len(piece.data) + 1
        past_head = lines >= HEAD_LINES or size > HEAD_BYTES
        before_tail = (
            lines + count <= extent.lines - TAIL_LINES
            or size + sized < extent.size - TAIL_BYTES
        )
        if not (past_head and before_tail) or lines + count == extent.lines:
            yield from _at_the_ends(piece, lines, size, extent)
        lines += count
        size += sized


def _at_the_ends(
    piece: Lines, lines: int, size: int, extent: Extent
) -> Iterator[tuple[bool, Lines]]:
    """What of a piece belongs to an end; `lines` and `size` are those before it."""
    head, tail = 0, len(piece.numbers)
    for index, line in enumerate(piece.data.split(b"\n")):
        ordinal, after = lines + index, size + len(line) + 1
        in_tail = (
            ordinal >= extent.lines - TAIL_LINES and size >= extent.size - TAIL_BYTES
        )
        if ordinal == 0 or (ordinal < HEAD_LINES and after <= HEAD_BYTES):
            head = index + 1
        elif in_tail or ordinal == extent.lines - 1:
            tail = min(tail, index)
        size = after
    if head:
        yield True, piece.some(0, head)
    if tail < len(piece.numbers):
        yield False, piece.some(tail, len(piece.numbers))


def whole_lines(path: Path, size: int) -> int:
    """Where the last whole line before byte `size` ends: what comes later is one's rest."""
    with path.open("rb", buffering=0) as file:
        end = size
        while end > 0:
            start = max(0, end - PIECE)
            found = os.pread(file.fileno(), end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def newlines(path: Path, end: int) -> int:
    """How many lines end before byte `end`."""
    return marks(path).newlines(end)


def _pieces(path: Path, end: int, first: int, times: Times | None) -> Iterator[Lines]:
    """Lines before byte `end`, `first` and some before it among them.

    None is longer than ENDLESS and a piece.
    """
    rest, skipping = b"", False
    # Where the next piece begins, and how much of its first line is left out.
    number, start = marks(path).before(first, end)
    dropped = 0
    end -= start
    if times is not None:
        times.look()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while end > 0:
            piece = file.read(min(PIECE, end))
            if not piece:
                raise OSError(f"{path} became shorter while it was read")
            end -= len(piece)
            if skipping:
                left_out, newline, piece = piece.partition(b"\n")
                dropped += len(left_out)
                if not newline:
                    continue
                skipping = False
                piece = newline + piece
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                count = whole.count(b"\n") + 1
                moments = _moments(times, whole, start, dropped) if times else ()
                yield Lines(range(number, number + count), whole, moments)
                number += count
                start += len(whole) + 1 + dropped
                dropped = 0
            if len(rest) > ENDLESS:
                dropped += len(rest) - KEPT
                rest, skipping = rest[:KEPT], True
    if rest:
        moments = _moments(times, rest, start, dropped) if times else ()
        yield Lines(range(number, number + 1), rest, moments)


def _moments(times: Times, data: bytes, start: int, dropped: int) -> list[int | None]:
    """The times of lines that begin at `start`; of the first so much is left out."""
    found = []
    for line in data.split(b"\n"):
        found.append(times.at(start))
        start += len(line) + 1 + dropped
        dropped = 0
    return found
