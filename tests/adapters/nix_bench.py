"""A repository, its mirror and an evaluator: where the evaluation tests work."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ci.adapters.cells import Cells
from ci.adapters.git import Mirror
from ci.adapters.nix_environment import discover
from ci.adapters.nix_eval import Evaluated, Evaluator
from ci.adapters.sandbox import Sandbox
from tests.fakes.nix_stores import NixStore
from tests.fakes.repository import Origin

GIB = 2**30
PATH = {"PATH": os.environ["PATH"]}
CANARY = "canary-5d41402abc4b2a76"


@dataclass
class Bench:
    """A repository, its mirror and an evaluator; `said` is what evaluation said."""

    store: NixStore
    origin: Origin
    mirror: Mirror
    evaluator: Evaluator
    cache: Path
    builds: int = 0
    said: list[bytes] = field(default_factory=list)

    async def url(self, sha: str, directory: str = ".") -> str:
        self.builds += 1
        await self.mirror.fetch_commit(sha, self.builds)
        return self.mirror.flake_url(self.builds, sha, directory)

    async def fetch_inputs(self, sha: str, directory: str = ".") -> str:
        url = await self.url(sha, directory)
        await self.evaluator.fetch_inputs(
            url, mirror=self.mirror.path, cache=self.cache, say=self.said.append
        )
        return url

    async def evaluate(
        self, sha: str, *patterns: str, directory: str = ".", building: bool = False
    ) -> dict[str, Evaluated]:
        """Fetch inputs and evaluate; the results by name."""
        url = await self.fetch_inputs(sha, directory)
        results = await self.evaluator.evaluate(
            url,
            patterns,
            mirror=self.mirror.path,
            cache=self.cache,
            import_from_derivation=building,
            say=self.said.append,
        )
        names = [result.name for result in results]
        assert len(set(names)) == len(names), f"named twice: {names}"
        return {result.name: result for result in results}

    async def errors(self, sha: str, *patterns: str) -> dict[str, str]:
        """The errors of the targets that have one."""
        results = await self.evaluate(sha, *patterns)
        return {name: r.error for name, r in results.items() if r.error is not None}


async def bench_of(
    store: NixStore,
    sandbox: Sandbox,
    directory: Path,
    *,
    memory: int = GIB,
    timeout: float = 120.0,  # noqa: ASYNC109 - the evaluator's own
    cells: Cells | None = None,
    **environ: str,
) -> Bench:
    origin = Origin(directory / "origin")
    mirror = Mirror(directory / "mirror", origin.url)
    cache = directory / "cache"
    cache.mkdir()
    nix = await discover(store.program, {**store.env, **environ})
    env = {**PATH, "CANARY": CANARY}
    evaluator = Evaluator(
        nix, sandbox, memory=memory, timeout=timeout, env=env, cells=cells
    )
    return Bench(store, origin, mirror, evaluator, cache)
