"""A file system of a few MiB, in a mount namespace of its own that only a server sees.

It needs root, or a user who may make namespaces and mounts in them; where that cannot be
done `small_disk` skips, saying what is thereby not tested.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

PIECE = 64 * 1024


@dataclass(frozen=True)
class SmallDisk:
    """A full disk to be, mounted at `path` in the namespace of process `keeper`."""

    path: Path
    keeper: int

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What lets a program see the disk, in front of its argv."""
        return ("nsenter", f"--target={self.keeper}", "--mount", "--")

    @property
    def inside(self) -> Path:
        """The disk as it is seen from outside."""
        return Path(f"/proc/{self.keeper}/root{self.path}")

    @property
    def free(self) -> int:
        found = os.statvfs(self.inside)
        return found.f_bavail * found.f_frsize

    @property
    def inodes_free(self) -> int:
        return os.statvfs(self.inside).f_favail

    def fill(self, name: str = "filler") -> None:
        """Write until the last byte is taken."""
        with (self.inside / name).open("ab", buffering=0) as file:
            for piece in (b"x" * PIECE, b"x"):
                while _room_for(file.write, piece):
                    pass

    def take_inodes(self, name: str = "inodes") -> None:
        """Make empty files until there is no room for another."""
        folder = self.inside / name
        folder.mkdir(exist_ok=True)
        number = len(os.listdir(folder))
        while _room_for(_touch, folder / str(number)):
            number += 1

    def remove(self, name: str) -> None:
        path = self.inside / name
        if path.is_dir():
            for entry in path.iterdir():
                entry.unlink()
            path.rmdir()
        else:
            path.unlink()


def _touch(path: Path) -> int:
    path.touch()
    return 1


def _room_for(act: Callable[[T], int], what: T) -> int:
    """What `act` returns, 0 when there is no room for it."""
    try:
        return act(what)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return 0


@asynccontextmanager
async def small_disk(path: Path, options: str) -> AsyncIterator[SmallDisk]:
    """A tmpfs with these options (tmpfs(5)); it ends with the context."""
    await asyncio.to_thread(path.mkdir, parents=True, exist_ok=True)
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec sleep infinity'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", script, "sh", options, str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        if await process.stdout.readline() != b"mounted\n":
            said = (await process.stderr.read()).decode().strip()
            pytest.skip(f"no mount namespace ({said}): full disks are not tested")
        yield SmallDisk(path, process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
