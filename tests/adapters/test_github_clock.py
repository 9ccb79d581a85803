"""GitHub's clock beside ours, when ours is wrong, is put right, or sleeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ci.adapters.github.clock import RemoteClock

NOON = 1_800_000_000.0


@dataclass
class Host:
    """A host whose clocks can be moved."""

    wall: float = NOON
    boot: float = 5000.0

    def clock(self) -> RemoteClock:
        return RemoteClock(lambda: self.wall, lambda: self.boot)

    def live(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


def test_nothing_is_known_until_a_reply_tells() -> None:
    clock = Host().clock()
    assert clock.skew is None
    clock.note(NOON, NOON)
    assert clock.skew == 0
    clock.note(None, NOON)
    assert clock.skew is None


@pytest.mark.parametrize(
    ("moment", "skew"),
    [
        (NOON - 3600, -3600),
        (NOON + 3600, 3590),
        (NOON - 0.9, -0.9),
        (NOON, 0),
        (NOON + 9, 0),
    ],
)
def test_what_lies_between_asking_and_reading_is_no_error(
    moment: float, skew: float
) -> None:
    """Ten seconds here; a host that slept over its request would see hours."""
    host = Host()
    clock = host.clock()
    host.live(10)
    clock.note(moment, asked=NOON)
    assert clock.skew == pytest.approx(skew)


def test_a_clock_that_is_set_is_seen_without_another_reply() -> None:
    host = Host(wall=NOON - 7200)
    clock = host.clock()
    clock.note(NOON, asked=host.wall)
    host.live(600)
    assert clock.skew == pytest.approx(7200)
    host.wall += 7200  # hwclock -s
    assert clock.skew == pytest.approx(0)
    host.wall -= 63_297
    assert clock.skew == pytest.approx(63_297)


def test_a_clock_that_was_set_back_while_asking_gives_no_nonsense() -> None:
    host = Host(wall=NOON)
    clock = host.clock()
    host.wall -= 60
    clock.note(NOON + 1, asked=NOON)
    assert clock.skew == pytest.approx(61)
