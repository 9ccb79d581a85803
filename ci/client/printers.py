"""What becomes of the bytes of a log: lines made safe, JSON per line, or bytes."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence

from ci.client import as_json
from ci.client.terminal import Side
from ci.client.text import log_line

LONGEST_LINE = 1024 * 1024
TIME_WIDTH = len("2026-11-20T05:30:00.3Z")

# A line and, where it is wanted, when it was written, or `-`.
Line = Callable[[str, str | None], str]


class Raw:
    """The bytes as they come; with `last`, only those of so many lines, at the end.

    `left_out` counts the lines before them; `empty` tells that there was nothing.
    """

    def __init__(self, side: Side, *, last: int | None = None) -> None:
        self._side = side
        self._kept: deque[bytes] | None = None if last is None else deque(maxlen=last)
        self._rest = b""
        self.left_out = 0
        self.empty = True

    def write(self, data: bytes, times: Sequence[str] = ()) -> None:
        """More bytes; they have no lines, and so no times."""
        self.empty = self.empty and not data
        if self._kept is None:
            self._side.write(data)
            self._side.flush()
        else:
            *whole, self._rest = (self._rest + data).split(b"\n")
            self.left_out += _overflow(self._kept, len(whole))
            self._kept.extend(line + b"\n" for line in whole)

    def end(self) -> None:
        """Write what was kept for the end."""
        if self._kept is not None:
            if self._rest:
                self._kept.append(self._rest)
            self._side.write(b"".join(self._kept))
            self._side.flush()
            self._kept, self._rest = None, b""


class Lines:
    """Whole lines as `line` renders them; with `last`, only so many, at the end.

    A line may come in pieces, from several connections. One that is longer than
    LONGEST_LINE is broken there. `total` counts all, `matched` those that were wanted,
    `dated` those whose time is known.
    """

    def __init__(
        self,
        side: Side,
        line: Line,
        *,
        matching: re.Pattern[str] | None = None,
        last: int | None = None,
    ) -> None:
        self._side = side
        self._line = line
        self._matching = matching
        self._kept: deque[str] | None = None if last is None else deque(maxlen=last)
        self._rest = b""
        self.left_out = 0
        self.empty = True
        self.total = 0
        self.matched = 0
        self.dated = 0
        # Of the lines that are not printed yet.
        self._times: deque[str] = deque()

    def write(self, data: bytes, times: Sequence[str] = ()) -> None:
        """More of the log; `times` are those of the lines that begin in it, or none."""
        self._times.extend(times)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            if self._times:
                self._times.append(self._times[-1])
            whole.append(self._rest)
            self._rest = b""
        self._print(whole)

    def close(self) -> None:
        """Nothing comes any more: what has no line end is a line."""
        if self._rest:
            self._print([self._rest])
            self._rest = b""

    def end(self) -> None:
        """Print what has no line end, and what was kept for the end."""
        self.close()
        if self._kept:
            self._side.lines(self._kept)
            self._kept.clear()

    def _print(self, raw: list[bytes]) -> None:
        lines = []
        for each in raw:
            line = each.decode("utf-8", "backslashreplace")
            time = self._times.popleft() if self._times else None
            self.dated += time not in (None, "-")
            if self._matching is None or self._matching.search(bare(line)):
                lines.append(self._line(line, time))
        self.total += len(raw)
        self.matched += len(lines)
        self.empty = self.empty and not lines
        if self._kept is not None:
            self.left_out += _overflow(self._kept, len(lines))
            self._kept.extend(lines)
        elif lines:
            self._side.lines(lines)


def _overflow(kept: deque[str] | deque[bytes], more: int) -> int:
    """How many lines the end does not hold when so many more come."""
    return max(0, len(kept) + more - (kept.maxlen or 0))


def bare(line: str) -> str:
    """A line as its reader sees it, for matching."""
    return log_line(line, colour=False)


def coloured(colour: bool) -> Line:
    """Lines for reading."""
    return lambda line, _time: log_line(line, colour=colour)


def timed(side: Side) -> Line:
    """Lines for reading, each with its time before it."""

    def render(line: str, time: str | None) -> str:
        stamp = side.paint("dim", f"{time or '-':<{TIME_WIDTH}}")
        return f"{stamp} {log_line(line, colour=side.colour)}"

    return render


def json_lines(build: int, target: str | None, *, times: bool) -> Line:
    """`{"build": 412, "line": "…"}`, with the target when it is one's.

    `times`: with the time as well, null when it is not known.
    """
    front: dict[str, object] = {"build": build}
    if target is not None:
        front["target"] = target

    def render(line: str, time: str | None) -> str:
        dated = {"time": None if time == "-" else time} if times else {}
        return as_json.dump({**front, **dated, "line": line}, pretty=False)

    return render
