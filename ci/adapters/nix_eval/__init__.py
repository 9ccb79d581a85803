"""From a commit to derivations: its locked inputs are fetched, its targets evaluated.

Both run in the sandbox: fetching with the network but without any code of the commit,
evaluation with the commit's code but without the network. A whole flake costs one
process; each target that fails costs one more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ci.adapters.cells import Cells, Limits
from ci.adapters.nix_environment import NixEnvironment
from ci.adapters.nix_eval.evaluation import Evaluation
from ci.adapters.nix_eval.expression import Expressions, Place, Say
from ci.adapters.nix_eval.flake import FlakeUrl
from ci.adapters.nix_eval.harness import HARNESSES, Harness
from ci.adapters.nix_eval.inputs import Inputs
from ci.adapters.nix_eval.patterns import parse
from ci.adapters.nix_eval.targets import Evaluated
from ci.adapters.nix_eval.update import updated_lock
from ci.adapters.sandbox import Sandbox

__all__ = ["Evaluated", "Evaluator"]

MEMORY_KEY = "build.eval_memory"
# More than Nix itself ever starts.
PROCESSES = 4096


class Evaluator:
    """Evaluates flakes of mirrors with one Nix.

    `memory` is bytes for each evaluation, which runs in a cell of `cells`, `timeout`
    seconds for each method; `env` is for git (PATH), and marks our processes.
    """

    def __init__(
        self,
        nix: NixEnvironment,
        sandbox: Sandbox,
        *,
        memory: int,
        timeout: float,
        env: Mapping[str, str],
        processes: int = PROCESSES,
        cells: Cells | None = None,
        harnesses: Mapping[str, Harness | None] = HARNESSES,
    ) -> None:
        self._timeout = timeout
        self._harnesses = harnesses
        limits = Limits(memory, processes, MEMORY_KEY, "address space")
        self._expressions = Expressions(nix, sandbox, limits, env, cells or Cells())
        self._inputs = Inputs(self._expressions, env, timeout)

    async def fetch_inputs(
        self, url: str, *, mirror: Path, cache: Path, say: Say, harness: str = ""
    ) -> None:
        """Put the inputs that the commit's flake.lock, or its harness, names into the store.

        Costs no Nix process when they are there. Raises CommitFault (no flake.nix, a
        lock that no other machine can use), NetworkDown, HostFault.
        """
        flake = FlakeUrl.parse(url)
        inputs = await self._inputs.read(flake, mirror, self._harnesses[harness])
        if absent := await self._inputs.absent(inputs):
            await self._inputs.fetch(absent, Place(mirror, cache), say)

    async def lock(self, url: str, mirror: Path) -> bytes | None:
        """The commit's flake.lock, None when it has none; raises as `fetch_inputs` does."""
        return await self._inputs.lock(FlakeUrl.parse(url), mirror)

    async def updated_lock(self, url: str, *, mirror: Path, scratch: Path) -> bytes:
        """A flake.lock for a commit that has none; see update.updated_lock."""
        place = Place(mirror, scratch)
        return await updated_lock(self._expressions, url, place, self._timeout)

    async def evaluate(
        self,
        url: str,
        patterns: Sequence[str],
        *,
        mirror: Path,
        cache: Path,
        import_from_derivation: bool,
        say: Say,
        harness: str = "",
    ) -> list[Evaluated]:
        """Evaluate every target that one of `patterns` matches, in their order.

        With the `harness` "home-manager" each of `homeModules` is the home made with it.
        Targets that fail are among the results, each with its error. Raises CommitFault
        (a flake that does not evaluate, nothing matches, too slow), HostLimit (memory),
        HostFault.
        """
        nix = self._expressions.nix
        requests = [parse(pattern, nix.system) for pattern in dict.fromkeys(patterns)]
        evaluation = Evaluation(
            self._expressions,
            self._inputs,
            FlakeUrl.parse(url),
            Place(mirror, cache),
            import_from_derivation=import_from_derivation,
            say=say,
            timeout=self._timeout,
            harness=self._harnesses[harness],
        )
        return await evaluation.targets(requests)
