"""Group commit: all deliveries that wait at one moment become durable together.

One transaction per delivery would cost one disk flush each, and a flush takes
milliseconds when builds keep every core busy. Here one task commits whatever has
gathered while the last commit ran; a delivery that comes alone is committed at once.
Those that came together last time are given a moment to gather again: a commit that begins
with the first of them keeps the interpreter from taking in the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ci.errors import RequestError
from ci.history.deliveries import Arrival, Receipt
from ci.intake.quiet import quiet_logger

BATCH = 256
WAITING = 1024
# GitHub hangs up after 10 s; an answer that comes later is none.
PATIENCE = 8.0
LINGER = 0.002

log = logging.getLogger(__name__)
_slow = quiet_logger(f"{__name__}.slow")


@dataclass(frozen=True)
class _Entry:
    arrival: Arrival
    receipt: asyncio.Future[Receipt]


class Ledger:
    """`accept` may be awaited by any number of handlers; `run` must be running once.

    `commit` makes a batch durable, whole or not at all, and returns a receipt for each
    arrival in order. `wake` is rung after a commit that made builds. `patience` is in
    seconds.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Arrival]], Awaitable[Sequence[Receipt]]],
        wake: Callable[[], None],
        *,
        batch: int = BATCH,
        waiting: int = WAITING,
        patience: float = PATIENCE,
    ) -> None:
        self._commit = commit
        self._wake = wake
        self._batch = batch
        self._limit = waiting
        self.patience = patience
        self._waiting: deque[_Entry] = deque()
        self._arrived = asyncio.Event()
        self._company = 0
        self._complete = asyncio.Event()

    async def accept(self, arrival: Arrival) -> Receipt:
        """Return the receipt once the arrival is durable.

        Raises RequestError (503) when the commit fails, does not end in time, or too
        many wait already. After a time-out, or when the caller is cancelled, the
        arrival may still be committed: that is never wrong, because a redelivery has
        the same GUID.
        """
        if len(self._waiting) >= self._limit:
            raise _unavailable("too many deliveries wait to be recorded")
        loop = asyncio.get_running_loop()
        receipt: asyncio.Future[Receipt] = loop.create_future()
        self._waiting.append(_Entry(arrival, receipt))
        self._arrived.set()
        if len(self._waiting) >= self._company:
            self._complete.set()
        late = loop.call_later(self.patience, self._give_up, receipt)
        try:
            return await receipt
        finally:
            late.cancel()

    def _give_up(self, receipt: asyncio.Future[Receipt]) -> None:
        if not receipt.done():
            _slow.error("recording a delivery took more than %g s", self.patience)
            receipt.set_exception(_unavailable("recording the delivery took too long"))

    async def run(self) -> None:
        """Commit what arrives until cancelled; then nobody is left waiting."""
        entries: list[_Entry] = []
        try:
            while True:
                await self._arrived.wait()
                await self._gather(len(entries))
                entries = self._take()
                await self._settle(entries)
        finally:
            for entry in [*entries, *self._waiting]:
                _refuse(entry, "the server is stopping")
            self._waiting.clear()

    async def _gather(self, company: int) -> None:
        """Wait for as many as came together last time, but not for long."""
        self._company = company
        if len(self._waiting) < company:
            self._complete.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    await self._complete.wait()

    def _take(self) -> list[_Entry]:
        size = min(self._batch, len(self._waiting))
        entries = [self._waiting.popleft() for _ in range(size)]
        if not self._waiting:
            self._arrived.clear()
        return entries

    async def _settle(self, entries: Sequence[_Entry]) -> None:
        try:
            receipts = await self._commit([entry.arrival for entry in entries])
        except Exception:
            # Whatever the reason, nothing was recorded and the loop must go on.
            log.exception("recording %d deliveries failed", len(entries))
            for entry in entries:
                _refuse(entry, "the delivery could not be recorded")
            return
        for entry, receipt in zip(entries, receipts, strict=True):
            if not entry.receipt.done():
                entry.receipt.set_result(receipt)
        if any(receipt.builds and not receipt.duplicate for receipt in receipts):
            self._wake()


def _refuse(entry: _Entry, reason: str) -> None:
    # A future that is done belongs to a caller who has gone.
    if not entry.receipt.done():
        entry.receipt.set_exception(_unavailable(reason))


def _unavailable(reason: str) -> RequestError:
    return RequestError(
        503,
        f"{reason}; deliver it again later, from the webhook's page on GitHub",
    )
