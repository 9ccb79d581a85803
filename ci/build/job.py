"""What a builder is given, and what it says while it works.

A builder ends in one of these ways: it returns the targets with their states; it raises
CommitFault (`failed`), HostFault (`error`, retried) or CommitVanished (`skipped`); or its
task is cancelled, and then it has left nothing running.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ci.adapters.git import Mirror
from ci.adapters.host import now_ms
from ci.adapters.strain import Strain
from ci.build.slots import Slot
from ci.config import Repository
from ci.errors import HostFault
from ci.history.queue import Claimed
from ci.models import Target
from ci.text import printable


@dataclass
class Progress:
    """The newest state of a running build; whoever keeps history reads it when it likes.

    Moments are milliseconds since the epoch. `steps` are what it has done until now, each
    with the moment it began. `derivations` are those that held a builder, `needs` which of
    each other they refer to, `broken` those whose result is bad. The counts are None until
    they are known: `substituted` counts paths that came from caches, `store_used` bytes of
    the store's file system.
    """

    summary: str = ""
    targets: tuple[Target, ...] = ()
    steps: list[tuple[str, int]] = field(default_factory=list)
    derivations: dict[tuple[str, str], tuple[int, int | None]] = field(
        default_factory=dict
    )
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    broken: frozenset[str] = frozenset()
    built: int | None = None
    substituted: int | None = None
    store_used: int | None = None
    version: int = 0
    # Why it would be no fault of the commit's to run out of time now; whether it did.
    overdue: HostFault | None = None
    expired: bool = False

    def say(self, summary: str, targets: Sequence[Target] | None = None) -> None:
        self.summary = summary
        if targets is not None:
            self.targets = tuple(targets)
        self.version += 1

    def step(self, name: str, targets: Sequence[Target] | None = None) -> None:
        """What it does from now on; nobody can say more of it yet."""
        self.steps.append((name, now_ms()))
        self.say(name, targets)

    def started(self, path: str, machine: str, at: int) -> None:
        self.derivations[path, machine] = (at, None)
        self.version += 1

    def stopped(self, path: str, machine: str, at: int) -> None:
        begun = self.derivations.get((path, machine), (at, None))[0]
        self.derivations[path, machine] = (begun, at)
        self.version += 1


@dataclass(frozen=True)
class Job:
    """One attempt at one commit; `slot` is lent, and `strain` asked, by the builder."""

    claimed: Claimed
    repository: Repository
    mirror: Mirror
    cache: Path
    checkout: Path
    write: Callable[[bytes], object]
    progress: Progress
    slot: Slot
    strain: Strain

    @property
    def patterns(self) -> tuple[str, ...]:
        return self.claimed.targets or self.repository.targets

    def say(self, data: bytes) -> None:
        """Bytes for the log from programs that report on themselves."""
        self.write(data)

    def note(self, sentence: str) -> None:
        """A line of the server's own in the log; names in it cannot make it two."""
        self.write(f"build-server: {printable(sentence)}\n".encode())


class Builder(Protocol):
    """Builds one commit; see the module's docstring for how it may end."""

    async def build(self, job: Job) -> Sequence[Target]: ...
