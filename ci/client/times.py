"""A log with times: what the server puts before each line, taken off again."""

from __future__ import annotations

import re

UNKNOWN = "-"
_STAMP = re.compile(rb"(?:-|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)\Z")
_LONGEST = 32


class Times:
    """One answer of the server, taken as it comes; `begins`: a line begins with it.

    What has neither a time nor the server's sign for none is text.
    """

    def __init__(self, *, begins: bool) -> None:
        self._begins = begins
        self._rest = b""

    def take(self, data: bytes) -> tuple[bytes, list[str]]:
        """The log's own bytes, and the time of each line that begins in them."""
        *whole, last = (self._rest + data).split(b"\n")
        parts: list[bytes] = []
        times: list[str] = []
        for line in whole:
            parts.append(self._bare(line, times) + b"\n")
            self._begins = True
        self._rest = b""
        if self._begins and _unclear(last):
            self._rest = last
        elif last:
            parts.append(self._bare(last, times))
            self._begins = False
        return b"".join(parts), times

    def _bare(self, line: bytes, times: list[str]) -> bytes:
        """A line, or the beginning of one, without its time."""
        if not self._begins:
            return line
        front, _, text = line.partition(b" ")
        stamped = _STAMP.match(front) is not None
        times.append(front.decode() if stamped else UNKNOWN)
        return text if stamped else line


def _unclear(line: bytes) -> bool:
    """Whether the time is not there as a whole, or nothing of the line itself."""
    front, space, text = line.partition(b" ")
    return not text if space else len(front) < _LONGEST
