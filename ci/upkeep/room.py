"""How much room there is where builds write, and whether it is enough to begin one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.host import Disk, disk
from ci.models import Check

# A build and its log need tens of inodes, a checkout thousands.
INODES_LOW = 1000
# What was low must be so much better before it counts as enough: an eighth. Else a build
# that takes the last bit and gives it back would start and stop the queue by turns.
MARGIN = 8


@dataclass(frozen=True)
class Place:
    """A file system that builds write to; `low` is bytes, `key` where that is set."""

    path: Path
    low: int
    key: str
    advice: str

    @property
    def enough(self) -> int:
        """Free bytes with which it is low no longer."""
        return self.low + self.low // MARGIN


class Room:
    """The places that builds need, as they were at the last look."""

    def __init__(
        self, places: Sequence[Place], measure: Callable[[Path], Disk] = disk
    ) -> None:
        self.places = tuple(places)
        self._measure = measure
        self._disks: dict[str, Disk] = {}
        self._low: dict[str, str] = {}

    async def look(self) -> None:
        """Ask the file systems, in a thread: one behind a network may hang."""
        for place in self.places:
            try:
                found = await asyncio.to_thread(self._measure, place.path)
            except OSError as error:
                self._low[place.key] = f"{place.path} cannot be used: {error.strerror}"
                continue
            self._disks[place.key] = found
            self._judge(place, found)

    def _judge(self, place: Place, found: Disk) -> None:
        was_low = place.key in self._low
        least, inodes = place.low, INODES_LOW
        if was_low:
            least, inodes = place.enough, INODES_LOW + INODES_LOW // MARGIN
        if found.free < least:
            self._low[place.key] = (
                f"only {size(found.free)} free in {place.path}; "
                f"no build begins before {size(place.enough)} are ({place.key})"
            )
        elif _inodes(found) < inodes:
            self._low[place.key] = (
                f"only {found.inodes_free} inodes free in {place.path}; "
                f"no build begins before there are {INODES_LOW + INODES_LOW // MARGIN}"
            )
        else:
            self._low.pop(place.key, None)

    def reason(self) -> str:
        """Why no build may begin; empty when there is room."""
        return "; ".join(self._low.values())

    def low(self, key: str) -> bool:
        """Whether this place has not enough room."""
        return key in self._low

    def seen(self, key: str) -> Disk | None:
        """What the last look found at a place; None before the first."""
        return self._disks.get(key)

    def free(self, key: str) -> float:
        """Free bytes at a place, for metrics; not a number before the first look."""
        found = self._disks.get(key)
        return float("nan") if found is None else float(found.free)

    def near(self) -> bool:
        """Whether a place may soon be low: twice the mark, or less."""
        return any(
            found.free < 2 * place.low or _inodes(found) < 2 * INODES_LOW
            for place in self.places
            if (found := self._disks.get(place.key)) is not None
        )

    def check(self) -> Check:
        """All places in one sentence, and the remedies of those that are low."""
        said = []
        remedies = []
        for place in self.places:
            found = self._disks.get(place.key)
            if place.key in self._low:
                said.append(self._low[place.key])
                remedies.append(_remedy(place, found))
            elif found is not None:
                said.append(f"{size(found.free)} free in {place.path}")
        detail = "; ".join(said) or "not looked at yet"
        return Check("disk", not self._low, detail, "; ".join(remedies))


def _inodes(found: Disk) -> float:
    """Free inodes; some file systems do not count them."""
    return float("inf") if found.inodes_free is None else found.inodes_free


def _remedy(place: Place, found: Disk | None) -> str:
    if found is not None and found.total < place.enough:
        return f"that file system has {size(found.total)} in all: lower {place.key}"
    return place.advice


def size(count: float) -> str:
    """`1.5 GiB`, `300 MiB`, `12 KiB`."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count:.0f} bytes"
