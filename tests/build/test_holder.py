"""Fresh results are held for a while by a connection that comes and goes with the need."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from ci.adapters.nix_environment import discover
from ci.build.holder import Holder
from ci.errors import DaemonDown
from tests.adapters.nix_cases import PATH, instantiate
from tests.fakes.mortal_daemon import mortal_daemon
from tests.fakes.nix_stores import NixStore
from tests.fakes.waiting import wait_until

ONE_NIX = pytest.mark.parametrize("nix_version", ["installed"], indirect=True)
DERIVATIONS = 'one = make "one" "" { }; two = make "two" "" { };'


async def kept(store: NixStore, *paths: str) -> list[bool]:
    """Collect garbage; which of these are left."""
    program = str(Path(store.program).with_name("nix-store"))
    await asyncio.to_thread(
        subprocess.run, [program, "--gc"], env=dict(store.env), capture_output=True
    )
    return await asyncio.to_thread(lambda: [Path(path).exists() for path in paths])


@ONE_NIX
async def test_what_is_held_stays_for_as_long_as_was_said(fresh_nix: NixStore) -> None:
    paths = await asyncio.to_thread(instantiate, fresh_nix, DERIVATIONS)
    one, two = paths["one"], paths["two"]
    nix = await discover(fresh_nix.program, fresh_nix.env)
    # A collector must have looked before the end.
    holder = Holder(nix, PATH, linger=3.0)
    holder.expect()
    await holder.hold([one])
    assert await kept(fresh_nix, one, two) == [True, False]

    async def gone() -> bool:
        return await kept(fresh_nix, one) == [False]

    await wait_until(gone, what="the end of the hold")
    paths = await asyncio.to_thread(instantiate, fresh_nix, DERIVATIONS)
    await holder.hold([paths["two"]])
    await holder.close()
    assert await kept(fresh_nix, paths["two"]) == [False]


@ONE_NIX
async def test_a_daemon_that_was_restarted_is_called_again(fresh_nix: NixStore) -> None:
    paths = await asyncio.to_thread(instantiate, fresh_nix, DERIVATIONS)
    with mortal_daemon(fresh_nix) as mortal:
        await asyncio.to_thread(mortal.start)
        behind = mortal.behind
        holder = Holder(await discover(behind.program, behind.env), PATH)
        await holder.hold([paths["one"]])
        await asyncio.to_thread(mortal.kill)
        with pytest.raises(DaemonDown):
            await holder.hold([paths["two"]])
        await asyncio.to_thread(mortal.start)
        await holder.hold([paths["two"]])
        assert await kept(fresh_nix, paths["two"]) == [True]
        await holder.close()
