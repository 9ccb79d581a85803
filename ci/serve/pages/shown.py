"""One attempt of a build as its timeline shows it: what happened, and why not earlier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ci.history import timeline as history
from ci.history.attempts import Attempt
from ci.history.timeline import Stay, Wait
from ci.models import Build, BuildState, human_seconds

# What is drawn at most; where there is more, what took less than this share is left out.
MOST_BARS = 2000
LEAST_SHARE = 0.005
HERE = "this host"
WORDS: Mapping[BuildState, str] = {
    BuildState.SUCCEEDED: "built",
    BuildState.FAILED: "failed",
    BuildState.RUNNING: "is being built",
    BuildState.CANCELLED: "cut off",
}


@dataclass(frozen=True)
class Shown:
    """One attempt of a build with everything that its timeline says.

    `attempts` are the last ones, the oldest first.
    `now` is the end of what is shown: that of the attempt, or this moment while it runs.
    """

    build: Build
    attempts: Sequence[Attempt]
    attempt: Attempt | None
    stays: Sequence[Stay]
    now: int

    @property
    def live(self) -> bool:
        """Whether there will be more of it."""
        return self.build.state in (BuildState.QUEUED, BuildState.RUNNING) and (
            self.attempt is None or self.attempt.number == self.build.attempt
        )

    @cached_property
    def running(self) -> bool:
        return self.attempt is not None and self.attempt.finished_at is None

    @cached_property
    def begin(self) -> int:
        """The first moment that is shown."""
        began = self.now if self.attempt is None else self.attempt.started_at
        return min([began, *(stay.started_at for stay in self.stays)])

    @cached_property
    def end(self) -> int:
        """The last moment that is shown: later than the first."""
        ends = (stay.end(self.now) for stay in self.stays)
        return max([self.now, self.begin + 1, *ends])

    @cached_property
    def seconds(self) -> float:
        return (self.end - self.begin) / 1000

    @property
    def untold(self) -> bool:
        """Whether several are built and none is known to have ended."""
        return (
            self.running
            and len(self.stays) > 1
            and all(stay.stopped_at is None for stay in self.stays)
        )

    @cached_property
    def path(self) -> list[str]:
        """The critical path."""
        return history.critical_path(self.stays, self.now)

    @cached_property
    def critical(self) -> frozenset[str]:
        return frozenset(self.path)

    @cached_property
    def critical_seconds(self) -> float:
        """How long its derivations held a builder, all together."""
        stays = (stay for stay in self.stays if stay.path in self.critical)
        return sum(stay.seconds(self.now) for stay in stays)

    @cached_property
    def waits(self) -> dict[str, Wait]:
        began = self.begin
        if self.attempt is not None:
            began = dict(self.attempt.steps).get("building", began)
        return history.waits(self.stays, began, self.now)

    @cached_property
    def names(self) -> dict[str, str]:
        return {stay.path: stay.name for stay in self.stays}

    @cached_property
    def steps(self) -> list[tuple[str, float]]:
        return [] if self.attempt is None else self.attempt.step_seconds(self.now)

    @property
    def step_begins(self) -> list[int]:
        """When each of the steps began, in milliseconds."""
        return [] if self.attempt is None else [at for _, at in self.attempt.steps]

    def state(self, stay: Stay) -> BuildState:
        """How it ended; `cancelled` where the attempt ended before it did."""
        if stay.failed:
            return BuildState.FAILED
        if stay.stopped_at is not None:
            return BuildState.SUCCEEDED
        return BuildState.RUNNING if self.running else BuildState.CANCELLED

    def why(self, stay: Stay) -> str:
        """Why it did not begin earlier, as far as the rows tell."""
        wait = self.waits[stay.path]
        after = f"after {self.names[wait.after]}" if wait.after else ""
        if wait.seconds < 0.05:
            return after or "began at once"
        waited = f"waited {human_seconds(wait.seconds)} for a builder or a download"
        return f"{waited} {after}".rstrip()

    def told(self, stay: Stay) -> str:
        """All about one bar: what one reads when pointing at it."""
        state = self.state(stay)
        took = human_seconds(stay.seconds(self.now))
        parts = [
            stay.name,
            took if state is BuildState.SUCCEEDED else f"{WORDS[state]}, {took}",
            stay.machine or HERE,
            self.why(stay),
        ]
        if stay.path in self.critical:
            parts.append("on the critical path")
        return " · ".join(parts)

    @cached_property
    def drawn(self) -> list[Stay]:
        """What is in the picture: all, or the longest ones where that is too many."""
        if len(self.stays) <= MOST_BARS:
            return list(self.stays)
        least = LEAST_SHARE * self.seconds

        def weight(stay: Stay) -> tuple[bool, float]:
            return stay.path in self.critical, stay.seconds(self.now)

        long = [stay for stay in self.stays if weight(stay) >= (False, least)]
        long = sorted(long, key=weight, reverse=True)[:MOST_BARS]
        return sorted(long, key=lambda stay: stay.started_at)

    @cached_property
    def lanes(self) -> dict[str, list[list[Stay]]]:
        return history.lanes(self.drawn, self.now)
