"""Disks that can be full or lose their power: real file systems, mounted for one test.

Whoever may not mount here (root, loop devices) is told so aloud: CannotMount.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024**2
# linux/fs/ext4: stop at once and write nothing more, as when the power fails.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2


class CannotMount(Exception):
    """This machine does not let us; the text says what was refused."""


def _run(*argv: str) -> None:
    if shutil.which(argv[0]) is None:
        raise CannotMount(f"{argv[0]} is not installed")
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotMount(f"`{' '.join(argv)}`: {done.stderr.strip()}")


@dataclass(frozen=True)
class Ext4:
    """An ext4 in the file `image`, mounted at `path`. Its methods block."""

    path: Path
    image: Path

    def pull_the_plug(self) -> None:
        """From now on nothing reaches the disk, and every write and flush fails."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("=I", _NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """Mount what is really on the disk; its journal is replayed.

        It is mounted as a copy: a sandbox that was started meanwhile somewhere else on
        this machine may still hold the dead file system.
        """
        copy = self.image.with_suffix(".copy")
        _run("cp", "--sparse=always", str(self.image), str(copy))
        _run("umount", "--lazy", str(self.path))
        copy.replace(self.image)
        _run("mount", "-o", "loop", str(self.image), str(self.path))


@contextmanager
def ext4(folder: Path, size: int = 64 * MIB) -> Iterator[Ext4]:
    """A fresh ext4 of `size` bytes below `folder`; raises CannotMount."""
    image, path = folder / "disk.img", folder / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-F", str(image))
    _run("mount", "-o", "loop", str(image), str(path))
    try:
        yield Ext4(path, image)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True)


@contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """An empty file system of `size` bytes in memory; raises CannotMount."""
    path = folder / "small"
    path.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path))
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], capture_output=True)
