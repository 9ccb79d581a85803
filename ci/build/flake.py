"""Building a flake: inputs, evaluation, then every derivation in one request.

The verdict comes from the daemon's typed results alone. Log text is shown to people and
never believed: a builder can print whatever it likes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ci.adapters import nix_daemon
from ci.adapters.host import now_ms
from ci.adapters.nix_daemon import (
    BuildResult,
    Daemon,
    Event,
    LogLine,
    Started,
    Stopped,
    Verdict,
    verdict,
)
from ci.adapters.nix_environment import NixEnvironment
from ci.adapters.nix_eval import Evaluated, Evaluator
from ci.build import roots
from ci.build.job import Job
from ci.errors import HostFault
from ci.models import BuildState, Target

TAIL = 50

# What a bad result makes of a target, the weightiest first.
STATES: Mapping[Verdict, BuildState] = {
    "commit": BuildState.FAILED,
    "host": BuildState.ERROR,
    "unsupported": BuildState.SKIPPED,
}


def derivation_name(path: str) -> str:
    """`/nix/store/<hash>-web-1.2.drv` -> `web-1.2`: how its lines are marked in the log."""
    return path.rpartition("/")[2].partition("-")[2].removesuffix(".drv")


@dataclass(frozen=True)
class FlakeBuilder:
    """Builds the targets of one commit of a flake; see job.Builder for how it ends."""

    nix: NixEnvironment
    env: Mapping[str, str]
    systems: frozenset[str]
    evaluator: Evaluator
    timeout: float
    silent_timeout: float
    diagnose: Callable[[], Awaitable[HostFault | None]]
    keep_roots: roots.RootKeeper

    async def build(self, job: Job) -> Sequence[Target]:
        mirror, claimed = job.mirror, job.claimed
        url = mirror.flake_url(claimed.number, claimed.sha, job.repository.flake_dir)
        job.progress.say("fetching inputs")
        await asyncio.to_thread(job.cache.mkdir, parents=True, exist_ok=True)
        await self.evaluator.fetch_inputs(
            url, mirror=mirror.path, cache=job.cache, say=job.say
        )
        job.progress.say("evaluating")
        begun = time.monotonic()
        evaluated = await self.evaluator.evaluate(
            url,
            job.patterns,
            mirror=mirror.path,
            cache=job.cache,
            import_from_derivation=job.repository.import_from_derivation,
            say=job.say,
        )
        job.note(
            f"{len(evaluated)} targets evaluated in {time.monotonic() - begun:.2f}s"
        )
        targets = [self._begin(item) for item in evaluated]
        for target in targets:
            if target.error:
                job.note(f"{target.name}: {target.error}")
        if any(_wants_building(target) for target in targets):
            outputs = {item.name: item.outputs for item in evaluated}
            return await self._realise(job, targets, outputs)
        return targets

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
        targets: list[Target],
        outputs: Mapping[str, Mapping[str, str]],
    ) -> list[Target]:
        watch = Watch(job, targets)
        async with nix_daemon.connect(self.nix, env=self.env) as daemon:
            await daemon.set_options(
                keep_going=True,
                timeout=self.timeout,
                silent=self.silent_timeout,
            )
            wanted = [
                target.derivation
                for target in targets
                if _wants_building(target) and target.derivation
            ]
            for path in wanted:
                await daemon.add_temp_root(path)
            missing = await daemon.query_missing(wanted)
            watch.begin(missing.will_build)
            requested = sorted({*wanted, *missing.will_build})
            results = await daemon.build(requested, watch)
            verdicts = Verdicts(daemon, results, watch, outputs)
            ended = [await verdicts.target(target) for target in targets]
            await self.keep_roots.keep(daemon, job, ended)
        if any(target.state is BuildState.ERROR for target in ended):
            fault = await self.diagnose()
            if fault is not None:
                raise fault
        return ended


def _wants_building(target: Target) -> bool:
    return target.state is BuildState.QUEUED


class Watch:
    """Hears what the daemon tells during a build: log, progress and timeline."""

    def __init__(self, job: Job, targets: Sequence[Target]) -> None:
        self._job = job
        self._targets = targets
        self._expected: frozenset[str] = frozenset()
        self._done: set[str] = set()
        self._running: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.tails: dict[str, deque[bytes]] = {}
        self._prefixes: dict[str, bytes] = {}

    def begin(self, will_build: Sequence[str]) -> None:
        self._expected = frozenset(will_build)
        self._tell()

    def __call__(self, event: Event) -> None:
        match event:
            case LogLine(derivation=derivation, line=line):
                self._log(derivation or "", line)
            case Started(derivation=derivation, machine=machine):
                self._running.setdefault(derivation, time.monotonic())
                self._job.progress.started(derivation, machine, now_ms())
                self._tell()
            case Stopped(derivation=derivation, machine=machine):
                begun = self._running.pop(derivation, None)
                if begun is not None:
                    self.seconds[derivation] = time.monotonic() - begun
                self._done.add(derivation)
                self._job.progress.stopped(derivation, machine, now_ms())
                self._tell()
            case _:
                pass

    def _log(self, derivation: str, line: bytes) -> None:
        prefix = self._prefixes.get(derivation)
        if prefix is None:
            prefix = (
                (derivation_name(derivation) + "> ").encode() if derivation else b""
            )
            self._prefixes[derivation] = prefix
            self.tails[derivation] = deque(maxlen=TAIL)
        self.tails[derivation].append(line)
        self._job.write(prefix + line + b"\n")

    def _tell(self) -> None:
        done = len(self._done & self._expected)
        names = ", ".join(sorted(map(derivation_name, self._running))[:3])
        summary = f"building: {done} of {len(self._expected)} derivations"
        self._job.progress.say(
            f"{summary} · {names}" if names else summary,
            [self._now(target) for target in self._targets],
        )

    def _now(self, target: Target) -> Target:
        if target.derivation in self._running and _wants_building(target):
            return replace(target, state=BuildState.RUNNING)
        return target


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
        if not _wants_building(target) or path is None:
            return target
        result = self._results.get(path)
        seconds = self._watch.seconds.get(path, 0.0)
        if result is None:
            return replace(
                target,
                state=BuildState.ERROR,
                error="the Nix daemon gave no result for it",
            )
        kind = verdict(result.status)
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
                if verdict(result.status) == kind:
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
                kind = verdict(self._results[reference].status)
                if kind == "dependency":
                    open_paths.append(reference)
                elif kind != "built":
                    causes.append(reference)
        return causes
