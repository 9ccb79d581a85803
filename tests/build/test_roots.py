"""Roots of results: what is let go of, also while several builds end at once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ci.adapters.nix_daemon import connect
from ci.adapters.nix_environment import discover
from ci.build.job import Job
from ci.build.roots import RootKeeper
from ci.history.paths import root_path
from ci.history.queue import Claimed
from ci.models import BuildState, Target
from tests.adapters.nix_cases import PATH
from tests.fakes.nix_stores import NixStore

AT_ONCE, FORMER = 6, 300


def _job(number: int) -> Job:
    """As much of one as roots are about."""
    claimed = Claimed(
        number=number,
        repository=1,
        repo="octo-org/example",
        branch="dev",
        sha=f"{number:040x}",
        attempt=1,
        counted=0,
        targets=(),
        before=None,
        forced=False,
    )
    return cast(Job, SimpleNamespace(claimed=claimed))


@pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
async def test_builds_of_a_target_that_end_at_once(
    tmp_path: Path, fresh_nix: NixStore
) -> None:
    """Each prunes the same folder, in which there is much to let go of."""
    (tmp_path / "result").write_text("built")
    result = str(tmp_path / "result")
    path = await asyncio.to_thread(fresh_nix.run, "store", "add-file", result)
    target = Target("packages.a", BuildState.SUCCEEDED, outputs={"out": path.strip()})
    folder = root_path(tmp_path, 1, "dev", "packages.a", 0).parent
    for number in range(1, FORMER + 1):
        (folder / str(number)).mkdir(parents=True)
    keeper = RootKeeper(tmp_path, keep_last=2)
    nix = await discover(fresh_nix.program, fresh_nix.env)

    async def end(number: int) -> None:
        async with connect(nix, env=PATH) as daemon:
            await keeper.keep(daemon, _job(number), [target])

    last = [FORMER + number for number in range(1, AT_ONCE + 1)]
    await asyncio.gather(*[end(number) for number in last])
    left = {int(each.name) for each in folder.iterdir()}
    # The newest, and what was made last of all.
    assert set(last[-2:]) <= left <= set(last)
    assert len(left) <= 3
