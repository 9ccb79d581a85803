from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from ci.errors import RequestError
from ci.history.deliveries import Arrival, Receipt
from ci.intake.ledger import Ledger
from tests.fakes.waiting import PATIENCE


def arrival(guid: object) -> Arrival:
    return Arrival(
        hook_id="30",
        guid=str(guid),
        event="push",
        received_at=1,
        body_sha256="",
        ref=None,
        before=None,
        after=None,
        forced=False,
        plan=None,
        reason="",
        repo=None,
    )


class Books:
    """A durable store that a test can hold up or break, and that counts."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False
        self.wakes = 0
        self.duplicates = False

    async def commit(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        self.entered.set()
        await self.open.wait()
        if self.broken:
            raise OSError("no space left on device")
        self.batches.append([one.guid for one in arrivals])
        return [
            Receipt(True, self.duplicates, "", builds=(int(one.guid),))
            for one in arrivals
        ]

    def wake(self) -> None:
        self.wakes += 1


@asynccontextmanager
async def running(ledger: Ledger) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(ledger.run())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_one_alone_is_committed_alone_and_wakes_the_loops() -> None:
    books = Books()
    async with running(ledger := Ledger(books.commit, books.wake)):
        assert (await ledger.accept(arrival(7))).builds == (7,)
    assert (books.batches, books.wakes) == ([["7"]], 1)


async def test_those_who_wait_share_a_transaction_and_each_gets_its_own_receipt() -> (
    None
):
    books = Books()
    books.open.clear()
    async with running(ledger := Ledger(books.commit, books.wake, batch=50)):
        first = asyncio.create_task(ledger.accept(arrival(0)))
        await books.entered.wait()
        others = [asyncio.create_task(ledger.accept(arrival(n))) for n in range(1, 121)]
        await asyncio.sleep(0)
        books.open.set()
        receipts = await asyncio.gather(first, *others)
    assert [receipt.builds for receipt in receipts] == [(n,) for n in range(121)]
    assert [len(batch) for batch in books.batches] == [1, 50, 50, 20]


async def test_nothing_new_wakes_nobody() -> None:
    books = Books()
    books.duplicates = True
    async with running(ledger := Ledger(books.commit, books.wake)):
        assert (await ledger.accept(arrival(1))).duplicate
    assert books.wakes == 0


async def test_a_failed_commit_acknowledges_nobody_and_the_next_one_works() -> None:
    books = Books()
    books.broken = True
    async with running(ledger := Ledger(books.commit, books.wake)):
        waiting = [asyncio.create_task(ledger.accept(arrival(n))) for n in range(3)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        refused = [one.status for one in outcomes if isinstance(one, RequestError)]
        assert refused == [503, 503, 503]
        books.broken = False
        assert (await ledger.accept(arrival(9))).accepted
    assert books.wakes == 1


async def test_a_cancelled_handler_does_not_tear_the_batch() -> None:
    books = Books()
    books.open.clear()
    async with running(ledger := Ledger(books.commit, books.wake)):
        first = asyncio.create_task(ledger.accept(arrival(0)))
        await books.entered.wait()
        waiting = [asyncio.create_task(ledger.accept(arrival(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        first.cancel()
        waiting[1].cancel()
        books.open.set()
        kept = await asyncio.gather(waiting[0], waiting[2])
        assert [receipt.builds for receipt in kept] == [(1,), (3,)]
        with pytest.raises(asyncio.CancelledError):
            await first
    assert books.batches == [["0"], ["1", "2", "3"]]


async def test_a_commit_that_takes_too_long_is_not_waited_for() -> None:
    books = Books()
    books.open.clear()
    ledger = Ledger(books.commit, books.wake, patience=0.05)
    async with running(ledger):
        with pytest.raises(RequestError, match="too long") as refused:
            await ledger.accept(arrival(1))
        assert refused.value.status == 503
        books.open.set()
        ledger.patience = PATIENCE
        assert (await ledger.accept(arrival(2))).builds == (2,)
    assert books.batches == [["1"], ["2"]]


async def test_only_so_many_may_wait() -> None:
    books = Books()
    books.open.clear()
    async with running(ledger := Ledger(books.commit, books.wake, waiting=2)):
        first = asyncio.create_task(ledger.accept(arrival(0)))
        await books.entered.wait()
        others = [asyncio.create_task(ledger.accept(arrival(n))) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="too many") as refused:
            await ledger.accept(arrival(3))
        assert refused.value.status == 503
        books.open.set()
        await asyncio.gather(first, *others)


async def test_nobody_is_left_waiting_when_the_server_stops() -> None:
    books = Books()
    books.open.clear()
    async with running(ledger := Ledger(books.commit, books.wake)) as run:
        waiting = [asyncio.create_task(ledger.accept(arrival(0)))]
        await books.entered.wait()
        waiting.append(asyncio.create_task(ledger.accept(arrival(1))))
        await asyncio.sleep(0)
        run.cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(outcome)[:22] for outcome in outcomes] == ["the server is stopping"] * 2
