"""Who may work on this host, and who gives way while he waits."""

from __future__ import annotations

import asyncio

import pytest

from ci.build.slots import Slot, Slots
from tests.fakes.waiting import PATIENCE, wait_until

OURS, THEIRS = 1, 2


def ring() -> None:
    """Nobody sleeps here."""


async def take(slots: Slots, repository: int = OURS) -> Slot:
    assert slots.free
    await slots.take()
    return Slot(slots, repository)


async def lent(slots: Slots) -> None:
    """Wait until there is a free slot."""
    async with asyncio.timeout(PATIENCE):
        await slots.take()
    slots.give_back()


async def test_a_short_wait_costs_no_slot_and_keeps_the_repository_back() -> None:
    slots = Slots(1, ring, patience=60)
    slot = await take(slots)
    async with slot.waiting("the remote"):
        assert not slots.free
        assert slots.abroad == {OURS}
        assert slot.waits == "the remote"
    assert slots.abroad == frozenset()
    assert (slot.waits, slots.free) == ("", False)
    slot.end()
    assert slots.free


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_long_wait_lends_the_slot_and_returns_when_it_is_free_again(
    at_once: bool,
) -> None:
    slots = Slots(1, ring, patience=60 if at_once else 0.01)
    ours = await take(slots)
    back = asyncio.Event()

    async def fetch() -> None:
        async with ours.waiting("the remote", at_once=at_once):
            await back.wait()
        assert ours.waits == ""

    fetching = asyncio.create_task(fetch())
    await asyncio.sleep(0)
    await lent(slots)
    theirs = await take(slots, THEIRS)
    back.set()
    await wait_until(lambda: ours.waits == "a free slot")
    assert slots.abroad == frozenset()
    theirs.end()
    # Who returns comes before whoever begins.
    assert not slots.free
    await fetching
    assert not slots.free
    ours.end()
    ours.end()
    assert slots.free


async def test_what_failed_holds_its_repository_back_until_its_end_is_written() -> None:
    slots = Slots(2, ring, patience=60)
    one, other = await take(slots), await take(slots)
    with pytest.raises(OSError, match="gone"):
        async with one.waiting("the remote", at_once=True):
            raise OSError("gone")
    async with other.waiting("the daemon"):
        assert slots.abroad == {OURS}
    assert slots.abroad == {OURS}
    one.end()
    assert slots.abroad == frozenset()
    other.end()


async def test_cancelled_while_it_waits_for_a_slot_it_has_none() -> None:
    slots = Slots(1, ring, patience=60)
    ours = await take(slots)
    back = asyncio.Event()

    async def fetch() -> None:
        async with ours.waiting("the remote", at_once=True):
            await back.wait()

    fetching = asyncio.create_task(fetch())
    await asyncio.sleep(0)
    await lent(slots)
    theirs = await take(slots, THEIRS)
    back.set()
    await wait_until(lambda: ours.waits == "a free slot")
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    ours.end()
    assert not slots.free
    theirs.end()
    assert slots.free
