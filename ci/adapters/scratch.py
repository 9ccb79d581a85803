"""Directories that others fill: they are emptied whatever is in them.

A command of a commit may leave trees that Python's rmtree cannot remove (deeper than it
can recurse, longer than a path may be, closed to their owner), on purpose or not. What
one attempt left may never meet the next: links there could lead its files elsewhere.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ci.adapters.process import run
from ci.errors import HostFault

# Removing ten million files takes about that long on a slow disk.
SECONDS = 600.0
ENV = {"PATH": os.defpath, "LC_ALL": "C"}


async def emptied(path: Path) -> None:
    """Remove what is at `path`, then make it a directory for its owner only.

    Raises HostFault when it cannot be removed or made.
    """
    await removed(path)
    try:
        await asyncio.to_thread(path.mkdir, mode=0o700, parents=True)
    except OSError as error:
        raise HostFault(f"{path} cannot be made: {error.strerror}") from error


async def removed(path: Path) -> None:
    """Remove what is at `path`, if anything. Raises HostFault when it cannot be done."""
    if not await asyncio.to_thread(os.path.lexists, path):
        return
    said = await _rm(path)
    if said:
        # Neither program follows links below `path`.
        opened = ["chmod", "--recursive", "u+rwx", "--", str(path)]
        await _run(opened)
        said = await _rm(path)
    if said:
        raise HostFault(f"{path} cannot be removed: {said}")


async def _rm(path: Path) -> str:
    argv = ["rm", "--recursive", "--force", "--one-file-system", "--", str(path)]
    return await _run(argv)


async def _run(argv: list[str]) -> str:
    """What the program says against it; empty when it has done its work."""
    try:
        done = await run(argv, env=ENV, timeout=SECONDS)
    except TimeoutError as error:
        return str(error)
    if done.code == 0:
        return ""
    lines = done.stderr.decode(errors="replace").splitlines()
    return lines[0] if lines else f"{argv[0]} ended with exit code {done.code}"
