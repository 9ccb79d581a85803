"""How many builds use this host at once, and who has to wait for it.

A build holds a slot while it works here. While it waits for somebody else's machine (its
remote, the server of an input, the daemon) it lends the slot to others after a moment, so
that a remote that is out of reach or stalls keeps no other repository waiting. Meanwhile
nothing else of its own repository begins: it would only wait for the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

# Seconds for which a slot is kept while its build waits: nearly every fetch is shorter.
PATIENCE = 5.0


class Slots:
    """`count` slots; `ring` is called when one is given back."""

    def __init__(
        self, count: int, ring: Callable[[], None], *, patience: float = PATIENCE
    ) -> None:
        self.patience = patience
        self._ring = ring
        self._gate = asyncio.Semaphore(count)
        self._abroad: Counter[int] = Counter()

    @property
    def free(self) -> bool:
        """Whether a slot can be taken at once; a build that returns goes first."""
        return not self._gate.locked()

    @property
    def abroad(self) -> frozenset[int]:
        """Repositories (ids) of which a build waits for somebody else's machine."""
        return frozenset(self._abroad)

    async def take(self) -> None:
        """Take one, as soon as there is one."""
        await self._gate.acquire()

    def give_back(self, *, quietly: bool = False) -> None:
        """One that was taken is free; `quietly` where nothing could have used it."""
        self._gate.release()
        if not quietly:
            self._ring()

    def leave(self, repository: int) -> None:
        """A build of the repository begins to wait."""
        self._abroad[repository] += 1

    def arrive(self, repository: int) -> None:
        """It waits no more."""
        self._abroad[repository] -= 1
        self._abroad += Counter()
        self._ring()


class Slot:
    """One build's, taken already; `waits` is what it waits for, empty while it works."""

    def __init__(self, slots: Slots, repository: int) -> None:
        self.waits = ""
        self._slots = slots
        self._repository = repository
        self._held = True
        self._away = False

    def release(self) -> None:
        """Let another build have it, for good; harmless when repeated."""
        if self._held:
            self._held = False
            self._slots.give_back()

    def end(self) -> None:
        """The build has ended, and what is to become of it is written."""
        self.release()
        self._arrive()

    @asynccontextmanager
    async def waiting(self, what: str, *, at_once: bool = False) -> AsyncIterator[None]:
        """For as long as the block lasts the build waits for `what`.

        The slot is lent after a moment, or `at_once` where the wait is likely to be
        long, and had again before the block is left. Not so when an error leaves it:
        then nothing of the repository begins before the build's `end`, because whatever
        was out of reach still is.
        """
        delay = 0.0 if at_once else self._slots.patience
        lending = asyncio.get_running_loop().call_later(delay, self.release)
        self.waits = what
        self._away = True
        self._slots.leave(self._repository)
        try:
            yield
        finally:
            lending.cancel()
        self._arrive()
        if not self._held:
            self.waits = "a free slot"
            await self._slots.take()
            self._held = True
        self.waits = ""

    def _arrive(self) -> None:
        if self._away:
            self._away = False
            self._slots.arrive(self._repository)
