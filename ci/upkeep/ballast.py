"""A file that is of no use but to be given up.

On a full disk SQLite can neither record nor delete: in write-ahead mode a deletion is
written, too. So some room is held back, and let go when the rest has gone.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

PIECE = 1024 * 1024
BLOCK = 512  # the unit of st_blocks, stat(2)


class Ballast:
    """The file `path` of `size` bytes. Its methods do I/O: call them in a thread."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.present = False

    def find(self) -> None:
        """See whether an earlier server left it; of another size it is another file."""
        with suppress(FileNotFoundError):
            whole = self.path.stat().st_size == self.size
            self.present = whole and _allocated(self.path) >= self.size

    def make(self) -> None:
        """Take the room, for certain; raises OSError, and then nothing is left of it."""
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            with part.open("wb") as file:
                _allocate(file.fileno(), self.size)
                os.fsync(file.fileno())
            part.replace(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self.present = True

    def release(self) -> int:
        """Give the room back; returns how many bytes that were."""
        held = _allocated(self.path)
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.path.with_name(f"{self.path.name}.part").unlink(missing_ok=True)
        self.present = False
        return held


def _allocated(path: Path) -> int:
    try:
        return path.stat().st_blocks * BLOCK
    except FileNotFoundError:
        return 0


def _allocate(file: int, size: int) -> None:
    """Have `size` bytes on the disk; a file system that only promises them is not trusted.

    One that compresses stores zeros in no room at all, so it is given what cannot be.
    """
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
    if os.fstat(file).st_blocks * BLOCK >= size:
        return
    os.ftruncate(file, 0)
    left = size
    while left > 0:
        left -= os.write(file, os.urandom(min(left, PIECE)))
