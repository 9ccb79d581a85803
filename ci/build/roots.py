"""Keeping green results from the garbage collector.

A root is a link that the daemon knows of: one folder per repository, branch, target and
build, so that pruning is removing folders (facts: moving them would drop the roots).
Those of branches and targets that are built no more go with the upkeep.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ci.adapters.nix_daemon import Daemon
from ci.build.job import Job
from ci.history.paths import root_path
from ci.models import BuildState, Target


class Needed(Protocol):
    async def __call__(
        self, repository: int, builds: Collection[int], count: int, /
    ) -> Collection[int]:
        """Those of `builds` that are pinned, or among the newest `count` of a branch."""
        ...


async def newest_numbers(
    repository: int, builds: Collection[int], count: int
) -> Collection[int]:
    """Where there is no history: the highest numbers."""
    return sorted(builds)[-count:]


@dataclass(frozen=True)
class RootKeeper:
    """Roots the outputs of good targets and forgets those that are not `needed`.

    A target's needed ones are those of the newest `keep_last` commits of each branch that
    it was good for, in the order of the branch: heads are built before older commits. The
    last ones made stay too, until others are: somebody has just asked for them.
    """

    state_dir: Path
    keep_last: int
    needed: Needed = newest_numbers
    # Builds of one target may end at the same time.
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def keep(self, daemon: Daemon, job: Job, targets: Sequence[Target]) -> None:
        """Register links while the connection still holds the fresh outputs."""
        if self.keep_last == 0:
            return
        for target in targets:
            if target.state is not BuildState.SUCCEEDED:
                continue
            folder = root_path(
                self.state_dir,
                job.claimed.repository,
                job.claimed.branch,
                target.name,
                job.claimed.number,
            )
            await asyncio.to_thread(_link, folder, dict(target.outputs or {}))
            for output in target.outputs or {}:
                await daemon.add_indirect_root(folder / output)
            async with self._turn:
                await self._prune(folder, job)

    async def _prune(self, made: Path, job: Job) -> None:
        """Let go of the target's other roots on this branch, as far as nobody needs them."""
        builds = await asyncio.to_thread(_builds, made.parent)
        if len(builds) <= self.keep_last:
            return
        repository, last = job.claimed.repository, {job.claimed.number}
        if job.claimed.branch is None:
            last.update(builds[-self.keep_last :])
        # A branch may have commits whose roots are with the branch they were built for.
        beside = await asyncio.to_thread(_of_target, made)
        needed = await self.needed(repository, beside, self.keep_last)
        gone = [build for build in builds if build not in {*needed, *last}]
        await asyncio.to_thread(_remove, made.parent, gone)


def _link(folder: Path, outputs: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for output, path in outputs.items():
        link = folder / output
        link.unlink(missing_ok=True)
        link.symlink_to(path)


def _builds(folder: Path) -> list[int]:
    """The builds that have a root here, the last one made at the end."""
    roots = list(folder.iterdir())
    roots.sort(key=lambda entry: (entry.lstat().st_mtime_ns, int(entry.name)))
    return [int(root.name) for root in roots]


def _of_target(made: Path) -> set[int]:
    """The builds that have a root of the same target on any branch of the repository."""
    target, found = made.parent, set[int]()
    for folder in target.parent.parent.glob(f"*/{target.name}"):
        # The upkeep removes those of branches that are built no more.
        with suppress(FileNotFoundError):
            found.update(int(root.name) for root in folder.iterdir())
    return found


def _remove(folder: Path, builds: Collection[int]) -> None:
    for build in builds:
        shutil.rmtree(folder / str(build))
