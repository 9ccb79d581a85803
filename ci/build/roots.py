"""Keeping green results from the garbage collector.

A root is a link that the daemon knows of: one folder per repository, branch, target and
build, so that pruning is removing folders (facts: moving them would drop the roots).
Those of branches and targets that are built no more go with the upkeep.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.nix_daemon import Daemon
from ci.build.job import Job
from ci.history.paths import root_path
from ci.models import BuildState, Target


async def nothing_pinned() -> Collection[int]:
    return ()


@dataclass(frozen=True)
class RootKeeper:
    """Roots the outputs of good targets and forgets all but the last `keep_last` of each.

    Those of the builds that `pinned` names stay besides.
    """

    state_dir: Path
    keep_last: int
    pinned: Callable[[], Awaitable[Collection[int]]] = nothing_pinned

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
            pinned = await self.pinned()
            await asyncio.to_thread(_prune, folder.parent, self.keep_last, pinned)


def _link(folder: Path, outputs: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for output, path in outputs.items():
        link = folder / output
        link.unlink(missing_ok=True)
        link.symlink_to(path)


def _prune(folder: Path, keep_last: int, pinned: Collection[int]) -> None:
    """Whatever was made last stays: after a retry that need not be the highest number."""
    builds = [entry for entry in folder.iterdir() if int(entry.name) not in pinned]
    builds.sort(key=lambda entry: (entry.lstat().st_mtime_ns, int(entry.name)))
    for old in builds[:-keep_last]:
        shutil.rmtree(old)
