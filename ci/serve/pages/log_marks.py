"""Where lines of a log begin: each part of a log is counted once while the server runs.

Counting is quick (2 GB/s) but for a log of 1 GiB not quick enough to do it for each page,
and too slow to be done while the log is written. So the first who wants a line far down
counts up to it, a MiB at a time, and the marks that he leaves are kept for others: 16 bytes
for a MiB, of the logs that were read last. Everything here blocks.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from threading import Lock

STEP = 1024 * 1024
KEPT = 256


class Marks:
    """Of one log, which only grows: some lines, by number and by byte.

    There is a mark for each `step` bytes in which a line ends.
    """

    def __init__(self, path: Path, step: int = STEP) -> None:
        self._path = path
        self._step = step
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        # Line `numbers[i]` begins at byte `starts[i]`.
        self._numbers, self._starts = array("Q", [1]), array("Q", [0])
        self._counted = 0

    def before(self, line: int, end: int) -> tuple[int, int]:
        """(number, byte) of a line that is `line` or not far before it.

        It is two steps away at most, unless a line is longer. Bytes from `end` on are not
        looked at.
        """
        with self._lock, self._path.open("rb", buffering=0) as file:
            self._check(file.fileno())
            while self._numbers[-1] < line and self._counted + self._step <= end:
                self._count(file.fileno())
            index = bisect_right(self._numbers, line) - 1
            return self._numbers[index], self._starts[index]

    def newlines(self, end: int) -> int:
        """How many lines end before byte `end`."""
        with self._lock, self._path.open("rb", buffering=0) as file:
            self._check(file.fileno())
            while self._counted + self._step <= end:
                self._count(file.fileno())
            index = bisect_right(self._starts, end) - 1
            count, at = self._numbers[index] - 1, self._starts[index]
            while at < end and (
                piece := _read(file.fileno(), min(self._step, end - at), at)
            ):
                count += piece.count(b"\n")
                at += len(piece)
            return count

    def begins(self, line: int, end: int) -> int:
        """The byte at which a line begins; `end` when that is not before it."""
        number, at = self.before(line, end)
        with self._path.open("rb", buffering=0) as file:
            while at < end and number < line:
                piece = _read(file.fileno(), min(self._step, end - at), at)
                if not piece:
                    return end
                found = piece.count(b"\n")
                if number + found < line:
                    number += found
                    at += len(piece)
                    continue
                place = 0
                for _ in range(line - number):
                    place = piece.index(b"\n", place) + 1
                return at + place
        return min(at, end)

    def _check(self, file: int) -> None:
        """Begin anew where the file is not what was counted."""
        at = self._starts[-1]
        if at and _read(file, 1, at - 1) != b"\n":
            self._forget()

    def _count(self, file: int) -> None:
        """A whole step; what is shorter is counted each time."""
        piece = _read(file, self._step, self._counted)
        if len(piece) < self._step:
            raise OSError(f"{self._path} became shorter while it was read")
        last = piece.rfind(b"\n") + 1
        if last:
            self._numbers.append(self._numbers[-1] + piece.count(b"\n"))
            self._starts.append(self._counted + last)
        self._counted += self._step


def _read(file: int, size: int, at: int) -> bytes:
    return os.pread(file, size, at)


def marks(path: Path) -> Marks:
    """Those of a log; raises OSError when there is none."""
    return _marks(path, path.stat().st_ino)


@lru_cache(maxsize=KEPT)
def _marks(path: Path, _inode: int) -> Marks:
    return Marks(path)
