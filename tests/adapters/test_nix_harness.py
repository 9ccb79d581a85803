"""Evaluating the modules of a flake as homes: what can go wrong with the harness itself."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.adapters.nix_environment import discover
from ci.adapters.nix_eval import Evaluated, Evaluator
from ci.adapters.nix_eval.harness import Harness
from ci.adapters.sandbox import Sandbox
from ci.errors import HostFault
from tests.adapters.nix_bench import GIB, PATH, Bench, bench_of
from tests.fakes.flakes import InputServer, nar_hash, sample
from tests.fakes.harness import INPUTS, OURS, write_harness
from tests.fakes.nix_stores import NixStore

NAME = "home-manager"


@dataclass(frozen=True)
class HarnessBench:
    """A bench, an evaluator with the harness in `folder`, and who serves its inputs."""

    bench: Bench
    sandbox: Sandbox
    folder: Path
    inputs: InputServer

    async def evaluator(self) -> Evaluator:
        store = self.bench.store
        harness = await asyncio.to_thread(Harness.read, self.folder)
        return Evaluator(
            await discover(store.program, store.env),
            self.sandbox,
            memory=GIB,
            timeout=120.0,
            env=PATH,
            harnesses={NAME: harness},
        )

    async def fetch(self, url: str) -> None:
        place = self.bench
        await (await self.evaluator()).fetch_inputs(
            url,
            mirror=place.mirror.path,
            cache=place.cache,
            say=place.said.append,
            harness=NAME,
        )

    async def evaluate(self, url: str, *patterns: str) -> Sequence[Evaluated]:
        place = self.bench
        return await (await self.evaluator()).evaluate(
            url,
            patterns,
            mirror=place.mirror.path,
            cache=place.cache,
            import_from_derivation=False,
            say=place.said.append,
            harness=NAME,
        )


@pytest.fixture
async def homes(
    fresh_nix: NixStore, bubblewrap: Sandbox, tmp_path: Path, input_host: InputServer
) -> HarnessBench:
    bench = await bench_of(fresh_nix, bubblewrap, tmp_path)
    write_harness(tmp_path / "harness", input_host)
    return HarnessBench(bench, bubblewrap, tmp_path / "harness", input_host)


async def test_what_the_store_lost_is_fetched_again(homes: HarnessBench) -> None:
    """A collector came between the fetch and the evaluation."""
    url = await homes.bench.url(homes.bench.origin.commit(sample("only-modules")))
    await homes.fetch(url)
    store = homes.bench.store
    harness = await asyncio.to_thread(Harness.read, homes.folder)
    store_dir = Path(store.env["NIX_STORE_DIR"])
    paths = (item.store_path(store_dir) for item in harness.locked.values())
    lost = [path for path in paths if path is not None]
    assert len(lost) == len(INPUTS)
    await asyncio.to_thread(_delete, store, [str(path) for path in lost])
    assert not any(path.exists() for path in lost)

    (good,) = await homes.evaluate(url, "homeModules.good")
    assert good.error is None
    assert good.derivation is not None
    assert all(path.exists() for path in lost)


def _delete(store: NixStore, paths: Sequence[str]) -> None:
    program = str(Path(store.program).with_name("nix-store"))
    argv = [program, "--delete", "--ignore-liveness", *paths]
    subprocess.run(argv, env=dict(store.env), check=True, capture_output=True)


async def test_a_harness_that_changed_is_not_the_commits_fault(
    homes: HarnessBench,
) -> None:
    """What its lock names is another thing today."""
    lock = homes.folder / "flake.lock"
    served = nar_hash(sample("stand-in-nixpkgs", WORD=OURS))
    once = nar_hash(sample("stand-in-nixpkgs", WORD="as it was"))
    lock.write_text(lock.read_text().replace(served, once))
    url = await homes.bench.url(homes.bench.origin.commit(sample("only-modules")))
    with pytest.raises(HostFault, match="`nixpkgs of the harness`"):
        await homes.fetch(url)


async def test_its_other_outputs_are_still_there(homes: HarnessBench) -> None:
    bench = homes.bench
    url = await bench.url(bench.origin.commit(sample("two-packages")))
    await homes.fetch(url)
    names = [each.name for each in await homes.evaluate(url, "packages.*")]
    assert names
    assert all(name.startswith("packages.") for name in names)
    (none,) = await homes.evaluate(url, "homeModules.*")
    assert (none.error or "").startswith("this flake exports no homeModules")


async def test_without_the_harness_a_module_is_not_built(bench: Bench) -> None:
    errors = await bench.errors(
        bench.origin.commit(sample("only-modules")), "homeModules.good"
    )
    (said,) = errors.values()
    assert said.endswith('write harness = "home-manager"')
