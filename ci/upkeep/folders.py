"""Folders that nobody needs any more: first out of sight, then removed at leisure.

What is not a coroutine here does I/O: call it in a thread.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ci.adapters import scratch
from ci.history import paths

GONE = ".gone"
CHECKOUTS = "checkouts"


def set_aside(path: Path) -> None:
    """Take a folder out of everybody's sight at once; `sweep` removes it later."""
    if path.exists():
        path.rename(path.with_name(f".{path.name}.{time.time_ns()}{GONE}"))


def set_leftovers_aside(state_dir: Path) -> None:
    """At the start nothing is built: what is checked out, or was being thrown away, goes.

    Renaming takes no time, whatever is in them.
    """
    for pattern in ("cache/*.damaged", "mirrors/*.damaged"):
        for grave in list(state_dir.glob(pattern)):
            set_aside(grave)
    folder = state_dir / CHECKOUTS
    set_aside(folder)
    folder.mkdir(mode=0o700, parents=True)


async def sweep(state_dir: Path) -> None:
    """Remove what was set aside. Raises HostFault when something cannot be removed."""
    for entry in await asyncio.to_thread(_set_aside, state_dir):
        await scratch.removed(entry)


def _set_aside(state_dir: Path) -> list[Path]:
    folders = (state_dir, state_dir / "cache", state_dir / "mirrors")
    return [entry for folder in folders for entry in folder.glob(f".*{GONE}")]


def remove_repositories(state_dir: Path, ids: Collection[int]) -> None:
    """Remove mirrors and caches of these repositories: they are fetched again if need be."""
    for number in ids:
        set_aside(paths.mirror_path(state_dir, number))
        set_aside(paths.cache_path(state_dir, number))


def caches(state_dir: Path) -> list[int]:
    """Ids of the repositories that have a cache."""
    return [int(entry.name) for entry in _numbered(state_dir / "cache")]


def large_caches(state_dir: Path, most: int) -> list[int]:
    """Ids of the repositories whose cache takes more than `most` bytes."""
    return [
        number
        for number in caches(state_dir)
        if _weight(paths.cache_path(state_dir, number)) > most
    ]


def _weight(top: Path) -> int:
    """Bytes of all files below, as far as they can be seen."""
    total = 0
    for folder, _, names in os.walk(top):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def remove_cache(state_dir: Path, repository: int) -> None:
    """Nix fetches and clones again what the next build needs."""
    set_aside(paths.cache_path(state_dir, repository))


def remove_old_copies(state_dir: Path) -> None:
    """Of the copies that upgrades made keep the newest."""
    database = paths.database_path(state_dir)
    copies = list(state_dir.glob(f"{database.name}.before-upgrade-from-*"))
    for copy in sorted(copies, key=_version)[:-1]:
        copy.unlink(missing_ok=True)


def _version(copy: Path) -> int:
    number = copy.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


@dataclass(frozen=True)
class RootRules:
    """Which roots stay: those of `targets`, keyed by (repository id, branch), and
    those of the builds in `spared`.

    Of the others those made since `before` (milliseconds) stay as well.
    """

    targets: Mapping[tuple[int, str], Collection[str]]
    spared: Collection[int]
    before: int


def remove_old_roots(state_dir: Path, rules: RootRules) -> int:
    """Let go of results of branches and targets that are built no more; return how many."""
    top, count = state_dir / "roots", 0
    used = {
        paths.root_path(state_dir, repository, branch, target, 0).parent
        for (repository, branch), targets in rules.targets.items()
        for target in targets
    }
    for folder in list(top.glob("*/*/*")):
        if folder in used:
            continue
        for root in _numbered(folder):
            old = root.lstat().st_mtime * 1000 < rules.before
            if old and int(root.name) not in rules.spared:
                shutil.rmtree(root)
                count += 1
        prune_empty(folder, top)
    return count


def prune_empty(folder: Path, top: Path) -> None:
    """Remove `folder` and those above it, below `top`, as far as they are empty."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _numbered(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from [entry for entry in folder.iterdir() if entry.name.isdigit()]
