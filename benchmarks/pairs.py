"""Equal commits built by the server and by hand, in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan

from benchmarks.pushing import Timeline, pusher
from benchmarks.report import Row, median, percentile
from benchmarks.service import service
from tests.end_to_end.server import World
from tests.fakes.repository import Files, Origin

# A commit for the server, and its equal for the hand.
Twins = tuple[str, str]

COLUMNS = (
    "build",
    "from push to",
    "p50 ms",
    "p99 ms",
    "by hand p50",
    "by hand p99",
    "ratio",
    "more ms",
)


@dataclass(frozen=True)
class Pairs:
    """What each commit took, in the same order."""

    served: Sequence[Timeline]
    by_hand: Sequence[Timeline]

    def medians(self, what: str) -> tuple[float, float]:
        """Milliseconds of the server, and by hand."""
        return median(_values(self.served, what)), median(_values(self.by_hand, what))

    def more(self, what: str) -> float:
        """Milliseconds that the server takes longer."""
        served, by_hand = self.medians(what)
        return served - by_hand

    def rows(self, name: str) -> list[Row]:
        """One row of COLUMNS for each moment that was seen."""
        found: list[Row] = []
        for what in ("response", "first", "finished"):
            ours, theirs = (_values(t, what) for t in (self.served, self.by_hand))
            if not ours:
                continue
            hand: Sequence[float | None] = (None, None, None, None)
            if theirs:
                p50, p99 = median(theirs), percentile(theirs, 99)
                hand = (p50, p99, median(ours) / p50, median(ours) - p50)
            found.append((name, what, median(ours), percentile(ours, 99), *hand))
        return found


async def measure(
    place: World, twins: Sequence[Twins], by_hand: Callable[[str], Timeline]
) -> Pairs:
    """Push a commit to an idle server and build its twin by hand; the first is no sample.

    Who comes first changes from commit to commit.
    """
    served, made = [], []
    async with service(place) as server, pusher(server) as push:
        for number, (sha, twin) in enumerate(twins):
            if number % 2:
                made.append(await asyncio.to_thread(by_hand, twin))
            served.append(await push.push(sha, before=twins[number - 1][0]))
            if not number % 2:
                made.append(await asyncio.to_thread(by_hand, twin))
    return Pairs(served[1:], made[1:])


def commit_twins(
    origin: Origin, count: int, change: Callable[[str], Files]
) -> list[Twins]:
    """Commits on top of the default branch, each with an equal on the branch `hand`.

    `change` makes the files of a commit from a word that no other commit has. Both are
    equally new to the one store they are built in: where files lie decides how long
    they take to write.
    """
    origin.branch("hand")
    return [
        (
            origin.commit(change(f"s{number}")),
            origin.commit(change(f"h{number}"), branch="hand"),
        )
        for number in range(count + 1)
    ]


def _values(timelines: Sequence[Timeline], what: str) -> list[float]:
    values: list[float] = [getattr(timeline, what) for timeline in timelines]
    return [value for value in values if not isnan(value)]
