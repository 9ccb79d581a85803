"""From the daemon's results to targets, looking behind failed dependencies.

The verdict comes from typed results alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ci.adapters import nix_daemon
from ci.adapters.nix_daemon import BuildResult, Daemon, Verdict, whose
from ci.build.watch import Watch
from ci.models import BuildState, Target, derivation_name

# What a bad result makes of a target, the weightiest first.
STATES: Mapping[Verdict, BuildState] = {
    "commit": BuildState.FAILED,
    "host": BuildState.ERROR,
    "unsupported": BuildState.SKIPPED,
}


def wants_building(target: Target) -> bool:
    return target.state is BuildState.QUEUED


class Verdicts:
    """Turns the daemon's results into targets, looking behind failed dependencies."""

    def __init__(
        self,
        daemon: Daemon,
        results: Mapping[str, BuildResult],
        watch: Watch,
        outputs: Mapping[str, Mapping[str, str]],
    ) -> None:
        self._outputs = outputs
        self._daemon = daemon
        self._results = results
        self._watch = watch

    async def target(self, target: Target) -> Target:
        path = target.derivation
        if not wants_building(target) or path is None:
            return target
        result = self._results.get(path)
        seconds = self._watch.seconds.get(path, 0.0)
        if result is None:
            return replace(
                target,
                state=BuildState.ERROR,
                error="the Nix daemon gave no result for it",
            )
        kind = whose(result)
        if kind == "built":
            return replace(
                target,
                state=BuildState.SUCCEEDED,
                seconds=seconds,
                outputs={**self._outputs[target.name], **result.outputs},
            )
        if kind == "dependency":
            return await self._behind(target, path)
        return replace(
            target,
            state=STATES[kind],
            seconds=seconds,
            error=self._error(path, result),
        )

    def _error(self, path: str, result: BuildResult) -> str:
        tail = self._watch.tails.get(path, ())
        return nix_daemon.first_error(result, list(tail))

    async def _behind(self, target: Target, path: str) -> Target:
        """A failed dependency decides: its own fault is the commit's, else it is ours."""
        causes = await self._causes(path)
        for kind, state in STATES.items():
            for cause in causes:
                result = self._results[cause]
                if whose(result) == kind:
                    name = derivation_name(cause)
                    error = f"dependency {name} failed: {self._error(cause, result)}"
                    return replace(target, state=state, error=error)
        return replace(
            target,
            state=BuildState.ERROR,
            error="a dependency failed, and the Nix daemon did not say which",
        )

    async def _causes(self, path: str) -> list[str]:
        """Derivations below `path` that have a bad result of their own."""
        seen, open_paths, causes = {path}, [path], []
        while open_paths:
            info = await self._daemon.query_path_info(open_paths.pop())
            for reference in info.references if info else ():
                if reference in seen or reference not in self._results:
                    continue
                seen.add(reference)
                kind = whose(self._results[reference])
                if kind == "dependency":
                    open_paths.append(reference)
                elif kind != "built":
                    causes.append(reference)
        return causes
