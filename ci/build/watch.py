"""What the daemon tells during a build: the log, the progress, the timeline.

Log text is shown to people and never believed: a builder can print whatever it likes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ci.adapters.host import now_ms
from ci.adapters.nix_daemon import (
    BuildResult,
    Event,
    LogLine,
    Missing,
    Phase,
    Progress,
    Started,
    Stopped,
    Substituting,
    whose,
)
from ci.build import timing
from ci.build.job import Job
from ci.build.phases import Phases
from ci.errors import DaemonLost, HostFault
from ci.models import BuildState, Target, building, derivation_name

TAIL = 50
# A builder is silent for as long as it may, twice; then it is the daemon that is silent.
SILENCES = 2
SETTLE = 5.0
IDLE = HostFault(
    "timed out while nothing of it was being built: the Nix daemon waited for a cache, "
    "for another build of the same, or for a builder"
)


class Watch:
    """Hears what the daemon tells during a build: log, progress and timeline.

    Each builder's end is a moment to look at the host: soon Nix has cleaned up.
    """

    def __init__(self, job: Job, targets: Sequence[Target]) -> None:
        self._job = job
        self._targets = targets
        self._expected: frozenset[str] = frozenset()
        self._done: set[str] = set()
        self._running: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.tails: dict[str, deque[bytes]] = {}
        self._prefixes: dict[str, bytes] = {}
        self._phases = Phases()
        self._heard = time.monotonic()
        self._builders = 0
        # When a builder ended, whichever it was; how many have until now.
        self._ends: list[int] = []
        self._ended = 0
        self._fetching: frozenset[str] = frozenset()
        self._fetched: set[str] = set()

    def begin(self, missing: Missing) -> None:
        """The daemon is going to be asked for what is `missing`."""
        self._expected = frozenset(missing.will_build)
        self._fetching = frozenset(missing.will_substitute)
        self._job.progress.built = self._job.progress.substituted = 0
        self._work(0)
        self._tell()

    def end(self, results: Mapping[str, BuildResult]) -> set[str]:
        """The daemon has answered; returns whose end is known to the second only."""
        progress = self._job.progress
        progress.broken = frozenset(
            path
            for path, result in results.items()
            if whose(result) in ("commit", "host")
        )
        corrected = timing.place_ends(progress, results, self._ends)
        self.seconds.update(corrected)
        return set(corrected)

    async def guard(self, silent: float) -> None:
        """Raise DaemonLost when the daemon falls silent, though its builders may not.

        They may be so for `silent` seconds, then the daemon ends them and says so. While
        it builds nothing there is nothing to say.
        """
        limit = SILENCES * silent + SETTLE
        while True:
            left = self._heard + limit - time.monotonic()
            if left <= 0 and self._builders:
                raise DaemonLost(
                    f"the Nix daemon says nothing any more: not a word for {limit:g} "
                    f"seconds, although a builder may be silent for {silent:g} only"
                )
            await asyncio.sleep(max(left, 1.0))

    def _work(self, builders: int) -> None:
        """So many builders run now."""
        self._builders = builders
        self._job.progress.overdue = None if builders else IDLE

    def __call__(self, event: Event) -> None:
        self._heard = time.monotonic()
        match event:
            case LogLine(derivation=derivation, line=line):
                self._log(derivation or "", line)
            case Phase(derivation=derivation, name=name):
                self._write(derivation, self._phases.begins(derivation, name))
            case Started(derivation=derivation, machine=machine):
                self._running.setdefault(derivation, time.monotonic())
                self._job.progress.started(derivation, machine, now_ms())
                self._job.progress.built = len(self._done | self._running.keys())
                self._tell()
            case Stopped(derivation=derivation, machine=machine):
                self._write(derivation, self._phases.ends(derivation))
                begun = self._running.pop(derivation, None)
                if begun is not None:
                    self.seconds[derivation] = time.monotonic() - begun
                self._job.strain.look()
                self._done.add(derivation)
                self._job.progress.stopped(derivation, machine, now_ms())
                self._tell()
            case Progress(done=done, failed=failed, running=running):
                if done + failed > self._ended:
                    self._ends.append(now_ms())
                self._ended = done + failed
                self._work(running)
                self._tell()
            case Substituting(path=path) if path in self._fetching:
                # Copies to and from other builders are told in the same way.
                self._fetched.add(path)
                self._job.progress.substituted = len(self._fetched)
            case _:
                pass

    def _log(self, derivation: str, line: bytes) -> None:
        if derivation not in self.tails:
            self.tails[derivation] = deque(maxlen=TAIL)
        self.tails[derivation].append(line)
        if derivation:
            self._write(derivation, self._phases.says(derivation, line))
        self._write(derivation, line)

    def _write(self, derivation: str, line: bytes | None) -> None:
        if line is None:
            return
        prefix = self._prefixes.get(derivation)
        if prefix is None:
            prefix = (
                (derivation_name(derivation) + "> ").encode() if derivation else b""
            )
            self._prefixes[derivation] = prefix
        self._job.write(prefix + line + b"\n")

    def _tell(self) -> None:
        total = len(self._expected)
        # Nix 2.8 tells the ends of what was asked for late, but counts them at once: then
        # nobody knows which of those that began are still at it.
        done = max(len(self._done & self._expected), min(self._ended, total))
        known = len(self._running) <= self._builders
        names = ", ".join(sorted(map(derivation_name, self._running))[:3] * known)
        summary = building(done, total)
        self._job.progress.say(
            f"{summary} · {names}" if names else summary,
            [self._now(target) for target in self._targets],
        )

    def _now(self, target: Target) -> Target:
        if target.derivation in self._running and target.state is BuildState.QUEUED:
            return replace(target, state=BuildState.RUNNING)
        return target
