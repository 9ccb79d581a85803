"""When the bytes of a log were written: a small index beside it, `1.idx` of `1.log`.

The index begins with 16 bytes: a mark, and a first moment in tenths of a second since the
epoch. Records of 16 bytes follow: the offset in the log at which a tenth of a second in
which something was written begins; how many bytes its first write had; the tenth, counted
from the first moment; a checksum. So there are at most ten records for a second in which
something is written, 160 bytes (1.1 MiB for two hours without a pause), and never more than
one for a write. Lines are not counted: that takes longer than writing them (25 to 36 µs for
64 KiB, against 21 to 28), while all that most writes cost here, the clock and a comparison,
takes 0.3 µs. Whoever wants lines by number counts for himself.

A record is written before its bytes. Up to the next record all bytes are of its tenth. Of
the last record that is sure for its first write only, because what came after it can be
lost (power, a full disk); and for all of the log while the log itself was last changed in
that tenth. What is not sure is unknown: where there is no index, behind its end, where it
does not hold together, while the clock is behind what it said before, and in what is kept
of the end of a log over its limit. A log without an index is a log as ever.
"""

from __future__ import annotations

import logging
import os
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from zlib import crc32

log = logging.getLogger(__name__)

TICK_MS = 100
TICK_NS = TICK_MS * 1_000_000
UNKNOWN = "-"
"""Stands for a time that is not known."""

_MARK = b"bs-idx1\n"
_HEAD = struct.Struct("<8sQ")
_RECORD = struct.Struct("<QHIH")
_LONGEST = 2**16 - 1
_NO_TICK = 2**32 - 1
# The kernel stamps files by a clock that is up to one of its own ticks behind.
_BEHIND_NS = 20_000_000
_EVER = 2**63


def index_path(path: Path) -> Path:
    """The index of the log at `path`."""
    return path.with_suffix(".idx")


class TimesWriter:
    """Writes the index of a new log. When that fails the times end, and the log goes on.

    `clock` tells nanoseconds since the epoch.
    """

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self._path = index_path(path)
        self._clock = clock
        self._file = -1
        self._over = False
        # All in tenths of a second: that of the last record, the first, the latest.
        self._tick = -1
        self._first = self._latest = 0
        # Of the last record: where it stands, and where its first write ends.
        self._at = self._until = 0

    def before(self, offset: int, length: int, *, known: bool = True) -> None:
        """Say that `length` bytes will now be written at `offset`.

        `known` is False for what came at another time.
        """
        now = self._clock() // TICK_NS
        tick = now if known else _NO_TICK
        if tick == self._tick or self._over:
            return
        if self._file < 0:
            self._first = self._latest = now
        if not self._latest <= now < self._first + _NO_TICK:
            tick = _NO_TICK
        if tick != self._tick:
            self._note(offset, length, tick)

    def failed(self, size: int) -> None:
        """Say that the write has failed, and that the log has so many bytes now.

        What is written later could be taken for the rest of it: no more times.
        """
        if self._file >= 0 and self._until > size:
            try:
                os.ftruncate(self._file, self._at)
            except OSError as error:
                log.warning("%s: the last time is doubtful: %s", self._path, error)
        self.close()

    def close(self) -> None:
        """Write no more; harmless when repeated."""
        self._over = True
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _note(self, offset: int, length: int, tick: int) -> None:
        data = b""
        try:
            if self._file < 0:
                self._file = _create(self._path)
                data = _HEAD.pack(_MARK, self._first)
            if tick != _NO_TICK:
                self._latest = tick
            since = tick - self._first if tick != _NO_TICK else _NO_TICK
            data += _record(offset, min(length, _LONGEST), since)
            if os.write(self._file, data) < len(data):
                raise OSError("it was not written as a whole")
        except OSError as error:
            log.warning("%s: the times of the log end here: %s", self._path, error)
            self.close()
        self._tick = tick
        self._at += _RECORD.size
        self._until = offset + length


def _record(start: int, length: int, since: int) -> bytes:
    checked = _RECORD.pack(start, length, since, 0)
    return _RECORD.pack(start, length, since, crc32(checked) & 0xFFFF)


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    return os.open(path, flags, 0o640)


class Times:
    """When each byte of the log at `path` was written, as far as its index tells.

    `look` reads what is new, and blocks; the others answer as of the last look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._first = 0
        self._sound = True
        # Where each record begins and its tenth of a second since the epoch, 0 for none.
        self._starts, self._ticks = array("Q"), array("Q")
        # Where the last record's first write ends, and up to where the record is sure.
        self._written = self._until = 0

    def look(self) -> None:
        """Read what has been written since the last look."""
        try:
            # In this order: what is in the log by now has its records.
            state = self._path.stat()
            new = self._new()
        except OSError:
            # Whatever is wrong with it: what cannot be read tells nothing.
            self._until = 0
            return
        self._take(new)
        self._until = min(self._written, state.st_size)
        if self._ticks and self._ticks[-1]:
            began = self._ticks[-1] * TICK_NS
            if began - _BEHIND_NS <= state.st_mtime_ns < began + TICK_NS:
                self._until = state.st_size

    def at(self, offset: int) -> int | None:
        """Milliseconds since the epoch, in whole tenths of a second; None: not known."""
        return self._within(bisect_right(self._starts, offset) - 1, offset)[1]

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int | None]]:
        """(end, milliseconds) of parts of one time each, from `start` to `end`."""
        index = bisect_right(self._starts, start) - 1
        while start < end:
            stop, moment = self._within(index, start)
            start = min(stop, end)
            yield start, moment
            if index + 1 < len(self._starts) and start >= self._starts[index + 1]:
                index += 1

    def _within(self, index: int, offset: int) -> tuple[int, int | None]:
        """Up to where bytes from `offset` on, of that record, have one time; which."""
        last = index + 1 == len(self._starts)
        stop = self._until if last else self._starts[index + 1]
        if index < 0 or not self._ticks[index]:
            return (_EVER if last else stop), None
        if offset >= stop:
            return _EVER, None
        return stop, self._ticks[index] * TICK_MS

    def _new(self) -> bytes:
        """Whole records that have not been read yet."""
        if not self._sound:
            return b""
        with index_path(self._path).open("rb", buffering=0) as file:
            if not self._read:
                head = file.read(_HEAD.size)
                if len(head) < _HEAD.size:
                    return b""
                mark, self._first = _HEAD.unpack(head)
                self._sound = mark == _MARK
                self._read = _HEAD.size
            file.seek(self._read)
            new = file.read() if self._sound else b""
        whole = len(new) - len(new) % _RECORD.size
        self._read += whole
        return new[:whole]

    def _take(self, new: bytes) -> None:
        """Add records, up to the first that cannot follow the one before it."""
        latest = max(self._ticks, default=0)
        for start, length, since, check in _RECORD.iter_unpack(new):
            tick = 0 if since == _NO_TICK else self._first + since
            before = self._starts[-1] if self._starts else 0
            torn = check != crc32(_RECORD.pack(start, length, since, 0)) & 0xFFFF
            if torn or start < before or (tick and tick < latest):
                self._sound = False
                return
            if self._starts and start == before:
                # The write that it was for came to nothing.
                self._starts.pop()
                self._ticks.pop()
            self._starts.append(start)
            self._ticks.append(tick)
            self._written = start + length
            latest = max(latest, tick)


@lru_cache(maxsize=64)
def stamp(moment: int | None) -> str:
    """`2026-11-20T05:30:00.3Z` of milliseconds since the epoch; `-` for None."""
    if moment is None:
        return UNKNOWN
    whole = datetime.fromtimestamp(moment // 1000, tz=UTC).isoformat()[:19]
    return f"{whole}.{moment % 1000 // TICK_MS}Z"


class Stamper:
    """Puts before each line when its first byte was written, and a space.

    The log is taken piece by piece, in order, from byte `offset` on; a first line whose
    beginning lies before that gets nothing. `take` blocks.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._times = Times(path)
        self._offset = offset
        self._begins = offset == 0 or _byte_before(path, offset) == b"\n"

    def take(self, piece: bytes) -> bytes:
        """The next piece of the log, with times."""
        if not piece:
            return b""
        self._times.look()
        # The line after a last newline may be still to come.
        ended = piece.endswith(b"\n")
        body = piece[:-1] if ended else piece
        parts = [_front(self._times.at(self._offset))] if self._begins else []
        first, at = self._offset + 1, 0
        for end, moment in self._times.spans(first, first + len(body)):
            part = body[at : end - first]
            parts.append(part.replace(b"\n", b"\n" + _front(moment)))
            at = end - first
        self._begins = ended
        self._offset += len(piece)
        return b"".join(parts) + (b"\n" if ended else b"")


def _front(moment: int | None) -> bytes:
    return stamp(moment).encode() + b" "


def _byte_before(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), 1, offset - 1)
    except FileNotFoundError:
        # Its reader finds that out.
        return b""
