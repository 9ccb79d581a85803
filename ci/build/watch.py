"""What the daemon tells during a build: the log, the progress, the timeline.

Log text is shown to people and never believed: a builder can print whatever it likes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from ci.adapters.host import now_ms
from ci.adapters.nix_daemon import Event, LogLine, Progress, Started, Stopped
from ci.build.job import Job
from ci.errors import DaemonLost, HostFault
from ci.models import BuildState, Target

TAIL = 50
# A builder is silent for as long as it may, twice; then it is the daemon that is silent.
SILENCES = 2
SETTLE = 5.0
IDLE = HostFault(
    "timed out while nothing of it was being built: the Nix daemon waited for a cache, "
    "for another build of the same, or for a builder"
)


def derivation_name(path: str) -> str:
    """`/nix/store/<hash>-web-1.2.drv` -> `web-1.2`: how its lines are marked in the log."""
    return path.rpartition("/")[2].partition("-")[2].removesuffix(".drv")


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
        self._heard = time.monotonic()
        self._builders = 0

    def begin(self, will_build: Sequence[str]) -> None:
        self._expected = frozenset(will_build)
        self._work(0)
        self._tell()

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
            case Started(derivation=derivation, machine=machine):
                self._running.setdefault(derivation, time.monotonic())
                self._job.progress.started(derivation, machine, now_ms())
                self._tell()
            case Stopped(derivation=derivation, machine=machine):
                begun = self._running.pop(derivation, None)
                if begun is not None:
                    self.seconds[derivation] = time.monotonic() - begun
                self._job.strain.look()
                self._done.add(derivation)
                self._job.progress.stopped(derivation, machine, now_ms())
                self._tell()
            case Progress(running=running):
                self._work(running)
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
        if target.derivation in self._running and target.state is BuildState.QUEUED:
            return replace(target, state=BuildState.RUNNING)
        return target
