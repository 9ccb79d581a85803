"""Building a flake: inputs, evaluation, then every derivation in one request.

One connection to the daemon lasts from the first to the last: what is evaluated, built
and rooted over it no garbage collector takes in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ci.adapters import host, nix_daemon, scratch
from ci.adapters.nix_daemon import BuildResult, Daemon
from ci.adapters.nix_environment import NixEnvironment
from ci.adapters.nix_eval import Evaluated, Evaluator
from ci.build import roots, timing
from ci.build.holder import Holder
from ci.build.job import Job
from ci.build.nix_cache import NixCache
from ci.build.results import Verdicts, wants_building
from ci.build.watch import Watch
from ci.errors import CommitFault, HostFault
from ci.models import BuildState, Target

# A garbage collector that runs all the time may come between evaluation and its hold.
EVALUATIONS = 3


@dataclass(frozen=True)
class FlakeBuilder:
    """Builds the targets of one commit of a flake; see job.Builder for how it ends.

    `diagnose` says what is wrong with this host now, as far as Nix needs it.
    """

    nix: NixEnvironment
    env: Mapping[str, str]
    systems: frozenset[str]
    evaluator: Evaluator
    timeout: float
    silent_timeout: float
    diagnose: Callable[[], Awaitable[HostFault | None]]
    keep_roots: roots.RootKeeper
    holder: Holder

    async def build(self, job: Job) -> Sequence[Target]:
        try:
            return await self._build(job)
        finally:
            job.progress.store_used = await asyncio.to_thread(
                host.used, self.nix.store_dir
            )

    async def _build(self, job: Job) -> Sequence[Target]:
        async with self._connected(job) as daemon:
            begun = time.monotonic()
            evaluated = await self._held(job, daemon)
            took = time.monotonic() - begun
            job.note(f"{len(evaluated)} targets evaluated in {took:.2f}s")
            targets = [self._begin(item) for item in evaluated]
            for target in targets:
                if target.error:
                    job.note(f"{target.name}: {target.error}")
            if any(wants_building(target) for target in targets):
                outputs = {item.name: item.outputs for item in evaluated}
                return await self._realise(job, daemon, targets, outputs)
            return targets

    @asynccontextmanager
    async def _connected(self, job: Job) -> AsyncIterator[Daemon]:
        async with AsyncExitStack() as stack:
            async with job.slot.waiting("the Nix daemon"):
                connection = nix_daemon.connect(self.nix, env=self.env)
                daemon = await stack.enter_async_context(connection)
            yield daemon

    async def _held(self, job: Job, daemon: Daemon) -> Sequence[Evaluated]:
        """Evaluate, and hold what came of it for as long as the connection lasts.

        A path can be held before it is there, so the second evaluation is safe from a
        collector that had come between the first and its hold.
        """
        for _ in range(EVALUATIONS):
            evaluated = await self._evaluate(job)
            paths = [item.derivation for item in evaluated if item.derivation]
            for path in paths:
                await daemon.add_temp_root(path)
            if not set(paths) - await daemon.valid(paths):
                return evaluated
            job.note("the garbage collector took what was evaluated: once more")
        raise HostFault(
            "the garbage collector takes derivations as fast as they are evaluated"
        )

    async def _evaluate(self, job: Job) -> Sequence[Evaluated]:
        """Fetch the inputs, then evaluate; the commit is at fault only on a sound host."""
        async with _cache(job) as cache:
            return await self._judged(job, cache)

    async def _judged(self, job: Job, cache: NixCache) -> Sequence[Evaluated]:
        if not cache.fresh:
            job.progress.overdue = cache.fault("the evaluation took too long")
        try:
            evaluated = await self._evaluate_once(job, cache.path)
            errors = [item.error for item in evaluated if item.error]
        except (CommitFault, HostFault) as error:
            await self._absolve(cache, error)
            raise
        except asyncio.CancelledError:
            if job.progress.expired:
                await asyncio.to_thread(cache.discard)
            raise
        job.progress.overdue = None
        if errors:
            await self._absolve(cache, CommitFault("; ".join(errors)))
        return evaluated

    async def _absolve(self, cache: NixCache, error: CommitFault | HostFault) -> None:
        """Raise the fault of ours that may be behind this end of an evaluation, if any."""
        if cache.suspected(error):
            await asyncio.to_thread(cache.discard)
            raise cache.fault(str(error)) from error
        if isinstance(error, CommitFault) and (fault := await self.diagnose()):
            raise fault from error

    async def _evaluate_once(self, job: Job, cache: Path) -> Sequence[Evaluated]:
        mirror, claimed = job.mirror, job.claimed
        url = mirror.flake_url(claimed.number, claimed.sha, job.repository.flake_dir)
        job.progress.step("fetching inputs")
        async with job.slot.waiting("the flake's inputs"):
            await self.evaluator.fetch_inputs(
                url,
                mirror=mirror.path,
                cache=cache,
                say=job.say,
                harness=job.repository.harness,
            )
        job.progress.step("evaluating")
        return await self.evaluator.evaluate(
            url,
            job.patterns,
            mirror=mirror.path,
            cache=cache,
            import_from_derivation=job.repository.import_from_derivation,
            say=job.say,
            harness=job.repository.harness,
        )

    def _begin(self, item: Evaluated) -> Target:
        """A target as it stands after evaluation: failed, not for us, or to be built."""
        state, error = BuildState.QUEUED, item.error
        if error is not None:
            state = BuildState.FAILED
        elif item.system is not None and item.system not in self.systems:
            state = BuildState.SKIPPED
            error = f"{item.system} is not built here"
        return Target(
            name=item.name, state=state, error=error, derivation=item.derivation
        )

    async def _realise(
        self,
        job: Job,
        daemon: Daemon,
        targets: list[Target],
        outputs: Mapping[str, Mapping[str, str]],
    ) -> list[Target]:
        self.holder.expect()
        watch = Watch(job, targets)
        await daemon.set_options(
            keep_going=True,
            timeout=self.timeout,
            silent=self.silent_timeout,
        )
        wanted = [
            target.derivation
            for target in targets
            if wants_building(target) and target.derivation
        ]
        missing = await daemon.query_missing(wanted)
        job.progress.step("building")
        watch.begin(missing)
        requested = sorted({*wanted, *missing.will_build})
        results = await self._results(daemon, requested, watch)
        job.progress.overdue = None
        corrected = watch.end(results)
        verdicts = Verdicts(daemon, results, watch, outputs)
        ended = [await verdicts.target(target) for target in targets]
        await self.keep_roots.keep(daemon, job, ended)
        await self.holder.hold(sorted(_outputs(ended)))
        present = await _present(daemon, ended)
        await timing.find_needs(daemon, job.progress, corrected)
        return present

    async def _results(
        self, daemon: Daemon, derivations: Sequence[str], watch: Watch
    ) -> dict[str, BuildResult]:
        async with asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(watch.guard(self.silent_timeout))
            results = await daemon.build(derivations, watch)
            guard.cancel()
        return results


async def _present(daemon: Daemon, targets: Sequence[Target]) -> list[Target]:
    """The targets, but an error for each whose outputs the store does not have after all.

    Asked when the roots are there: what is there now stays.
    """
    paths = _outputs(targets)
    gone = paths - await daemon.valid(sorted(paths))

    def checked(target: Target) -> Target:
        lost = sorted(gone & _outputs([target]))
        if not lost:
            return target
        error = f"{lost[0]} was built, and was removed from the store at once"
        return replace(target, state=BuildState.ERROR, error=error, outputs=None)

    return [checked(target) for target in targets] if gone else list(targets)


def _outputs(targets: Sequence[Target]) -> set[str]:
    built = [target for target in targets if target.state is BuildState.SUCCEEDED]
    return {path for target in built for path in (target.outputs or {}).values()}


@asynccontextmanager
async def _cache(job: Job) -> AsyncIterator[NixCache]:
    """Nix's cache for this attempt: one of its own after a fault that was ours.

    Builds of one repository share the other; what one of them throws away another may
    just be reading. Alone with an empty one nothing is left to suspect but the commit.
    """
    alone = job.claimed.counted > 0
    cache = NixCache(job.checkout if alone else job.cache)
    try:
        if alone:
            await scratch.emptied(job.checkout)
        await asyncio.to_thread(cache.open)
        yield cache
    finally:
        if alone:
            await scratch.removed(job.checkout)
