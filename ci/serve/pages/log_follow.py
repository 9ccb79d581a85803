"""New lines of a log for an open page: numbered, painted, a tick's at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ci.serve.pages import log_file
from ci.serve.pages.log_file import Lines
from ci.serve.pages.log_sheet import Sheet

# How much of what came before a follower's place is looked at for its colours.
PRIMED = 64 * 1024


@dataclass(frozen=True)
class LogNews:
    """New lines of a log as HTML, each writer's in a block with `data-group`.

    `first` is the number of the first of them; `offset` the byte after the last.
    """

    html: str
    first: int
    offset: int


class Follower:
    """Makes news of pieces of a log, however it is cut. Opening it reads the log.

    `only`: the name of the one derivation that is wanted.
    """

    def __init__(self, path: Path, offset: int, sheet: Sheet, only: str | None) -> None:
        self._sheet = sheet
        self.only = only
        self._offset = offset
        self._rest = b""
        # Bytes of the line that goes on which were not kept.
        self._dropped = 0
        self._number = 1
        if offset:
            self._number += log_file.newlines(path, offset)
            self._prime(path)

    def take(self, chunk: bytes) -> LogNews:
        """The lines that are whole with this piece; no HTML when there are none."""
        whole, newline, rest = (self._rest + chunk).rpartition(b"\n")
        dropped, self._dropped = self._dropped, 0
        if not newline:
            self._dropped = dropped
        self._rest = rest
        if len(rest) > log_file.ENDLESS:
            self._dropped += len(rest) - log_file.KEPT
            self._rest = rest[: log_file.KEPT]
        return self._news(whole, len(whole) + 1 + dropped) if newline else self._none()

    def rest(self) -> LogNews:
        """The last line, which has no newline."""
        rest, self._rest = self._rest, b""
        if not rest:
            return self._none()
        return self._news(rest, len(rest) + self._dropped)

    def _none(self) -> LogNews:
        return LogNews("", self._number, self._offset)

    def _news(self, data: bytes, size: int) -> LogNews:
        first = self._number
        self._number += data.count(b"\n") + 1
        self._offset += size
        lines = Lines(range(first, self._number), data).of(self.only)
        if lines.numbers:
            self._sheet.add(lines)
        return LogNews(self._sheet.news(), first, self._offset)

    def _prime(self, path: Path) -> None:
        """What is coloured before the first line stays so in it."""
        start = max(0, self._offset - PRIMED)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(self._offset - start).removesuffix(b"\n")
        lines = Lines(range(data.count(b"\n") + 1), data).of(self.only)
        if lines.numbers:
            self._sheet.add(lines)
        self._sheet.news()
