"""SQLite's write-ahead log as it lies on the disk, apart from what SQLite makes of it.

https://www.sqlite.org/fileformat2.html#walformat, https://www.sqlite.org/walformat.html
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_MAGIC = 0x377F0682
_HEADER = 32
_FRAME_HEADER = 24
# Of the index of the log (-shm): where it says how many pages are taken, mxFrame there.
_MX_FRAME = 16


def durable(log: Path) -> int:
    """How many pages of the log had become durable for certain, by its own marks.

    Each transaction is flushed before the next one begins. So whatever stands before the
    end of a transaction that has something behind it was safely on the disk once.
    """
    with log.open("rb") as file:
        return _durable(file.fileno(), log.stat().st_size)


def believed(index: Path) -> int:
    """How many pages of the log SQLite takes; a connection must be open meanwhile."""
    with index.open("rb") as file:
        file.seek(_MX_FRAME)
        return int(struct.unpack("=I", file.read(4))[0])


def _durable(log: int, size: int) -> int:
    """A page belongs to the present log when it carries the log's salts; a size of the
    database beside it marks the end of a transaction.
    """
    header = os.pread(log, _HEADER, 0)
    if size <= _HEADER:
        return 0
    if not _holds(header):
        return 1  # it was flushed before the first page was written
    page_size, _, *salts = struct.unpack(">4I", header[8:24])
    length = _FRAME_HEADER + page_size
    durable = ended = 0
    for number in range(1, (size - _HEADER) // length + 1):
        frame = os.pread(log, 16, _HEADER + (number - 1) * length)
        _, pages, *own = struct.unpack(">4I", frame)
        if own == salts:
            durable = max(durable, ended)
            ended = number if pages else ended
    return durable


def _holds(header: bytes) -> bool:
    """Whether the header of a log carries the mark and its own checksum."""
    order = ">" if header[3] & 1 else "<"
    words = struct.unpack(f"{order}6I", header[:24])
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    marked = struct.unpack(">I", header[:4])[0] & ~1 == _MAGIC
    return marked and struct.pack(">2I", first, second) == header[24:]
