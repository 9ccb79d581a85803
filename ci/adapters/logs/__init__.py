"""Append-only log files: written as bytes come, followed by offset, read from the end.

Whoever follows reads the file, never a queue: a slow reader costs the writer nothing,
and from any offset everybody gets the same bytes. A log is bytes: a NUL, a carriage
return, a line without end or something that is no UTF-8 passes unchanged.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import TracebackType

from ci.adapters.logs.hub import LogHub
from ci.adapters.logs.times import Stamper, Times, TimesWriter, index_path, stamp
from ci.errors import DiskFull, HostFault
from ci.text import printable

__all__ = [
    "LogHub",
    "LogWriter",
    "Stamper",
    "Times",
    "follow",
    "index_path",
    "stamp",
    "tail",
    "tail_offset",
]

PIECE = 64 * 1024
# A reader that never has to wait lets others run after so many pieces.
TURN = 4
# Of what does not fit the end is kept: it says why a build failed. An eighth of the
# limit at most.
END_KEPT = 64 * 1024
# No tail is longer, whatever the number of lines: one line can be a whole file.
LONGEST_TAIL = 8 * 1024 * 1024


class LogWriter:
    """Appends to one log; what `write` was given is in the kernel when it returns.

    The first `limit` bytes are kept, then a line says that the rest is not; when the log
    ends its last 64 KiB follow. `size` is bytes. Raises DiskFull or HostFault when it
    cannot be written. Times are kept of a new log only; `clock` tells nanoseconds.
    """

    def __init__(
        self,
        path: Path,
        limit: int,
        hub: LogHub | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self._limit = limit
        self._end_kept = min(END_KEPT, limit // 8)
        self._hub = hub
        self._left_out = 0
        self._end = b""
        try:
            self._file = _open(path)
            state = os.fstat(self._file)
        except OSError as error:
            raise _fault(path, error) from error
        self.size = state.st_size
        self._times: TimesWriter | None = None
        if not self.size and stat.S_ISREG(state.st_mode):
            self._times = TimesWriter(path, clock)
        self._line_ended = True
        self._cut = self.size >= limit

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, data: bytes) -> bool:
        """Append `data`; False when the limit is reached and not all of it was kept."""
        room = max(0, self._limit - self.size)
        if not self._cut and len(data) <= room:
            self._append(data)
            return True
        if not self._cut:
            self._append(data[:room])
            data = data[room:]
            self._cut = True
            kept = f"only its last {_size(self._end_kept)} follow"
            self._say(f"log cut here at {_size(self._limit)}; {kept}")
        self._left_out += len(data)
        self._end = (self._end + data)[-self._end_kept :] if self._end_kept else b""
        return False

    def note(self, sentence: str) -> None:
        """A line of the server's own, on a line of its own, whatever the limit."""
        self._append_end()
        self._say(printable(sentence))

    def close(self) -> None:
        """Write what was kept of the end; harmless when repeated."""
        if self._file < 0:
            return
        try:
            self._append_end()
        finally:
            os.close(self._file)
            self._file = -1
            if self._times is not None:
                self._times.close()

    def _append_end(self) -> None:
        missing, end = self._left_out - len(self._end), self._end
        self._left_out, self._end = 0, b""
        if missing:
            self._say(f"{_size(missing)} are left out here")
        if end:
            # When it came nobody knows any more.
            self._append(end, known=False)

    def _say(self, sentence: str) -> None:
        start = b"" if self._line_ended else b"\n"
        self._append(start + f"build-server: {sentence}\n".encode())

    def _append(self, data: bytes, *, known: bool = True) -> None:
        if self._times is not None and data:
            self._times.before(self.size, len(data), known=known)
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(self._file, rest)
            except OSError as error:
                if self._times is not None:
                    self._times.failed(self.size)
                raise _fault(self.path, error) from error
            rest = rest[written:]
            self.size += written
        if data:
            self._line_ended = data.endswith(b"\n")
            if self._hub is not None:
                self._hub.ring(self.path)


async def follow(
    path: Path, offset: int, *, hub: LogHub, finished: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """The bytes of a log from `offset` on, as they come, in pieces of up to 64 KiB.

    Ends when `finished()` and everything is read. A log that is not there yet is empty.
    """
    turns = 0
    while True:
        # Asked before reading: nothing is written after the answer was yes.
        over = finished()
        piece = _read(path, offset)
        if piece:
            offset += len(piece)
            yield piece
            turns += 1
            if turns % TURN == 0:
                await asyncio.sleep(0)
        elif over:
            return
        else:
            await hub.changed(path)


def _read(path: Path, offset: int) -> bytes:
    # Opened for each piece: a thousand followers hold no file open.
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(file, PIECE, offset)
    finally:
        os.close(file)


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines of a log begin, at most 8 MiB before its end.

    A last line without its newline counts. 0 when there are fewer, or no log.
    """
    try:
        with path.open("rb", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            return _line_start(file.fileno(), end, lines)
    except FileNotFoundError:
        return 0


def _line_start(file: int, end: int, lines: int) -> int:
    """Look back from `end` for the newline before the last `lines` lines."""
    if lines <= 0:
        return end
    # The newline of the last line ends it; it separates nothing.
    position = end - 1
    least = max(0, end - LONGEST_TAIL)
    while position > least:
        start = max(least, position - PIECE)
        block = os.pread(file, position - start, start)
        found = len(block)
        while (found := block.rfind(b"\n", 0, found)) >= 0:
            lines -= 1
            if lines == 0:
                return start + found + 1
        position = start
    return least


def tail(path: Path, lines: int) -> list[str]:
    """The last `lines` lines of a log, decoded; no log has none.

    Reads blocks from the end: the size of the log does not matter.
    """
    try:
        with path.open("rb", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            start = _line_start(file.fileno(), end, lines)
            data = os.pread(file.fileno(), end - start, start)
    except FileNotFoundError:
        return []
    found = data.removesuffix(b"\n").split(b"\n") if data else []
    return [line.decode(errors="replace") for line in found]


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:
        # With the last old log in it the folder may have been removed just now.
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o640)


def _fault(path: Path, error: OSError) -> HostFault:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"no room for the log {path}: {error.strerror}")
    return HostFault(f"the log {path} cannot be written: {error.strerror}")


def _size(count: int) -> str:
    """`64 MiB`, `1.5 KiB`, `700 bytes`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} bytes"
