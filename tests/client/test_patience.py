"""How long a lost server is waited for, and what is said meanwhile."""

from __future__ import annotations

import pytest

from ci.client.exits import Exit, Refused, Unreachable
from ci.client.patience import GIVE_UP, Heartbeat, Patience


def test_patience_gives_up_after_a_minute() -> None:
    now = [0.0]
    said: list[str] = []

    def pause(seconds: float) -> None:
        now[0] += seconds

    patience = Patience(said.append, clock=lambda: now[0], pause=pause)
    gone = Unreachable("http://x", "is gone", "where is it", "look for it")
    while now[0] < GIVE_UP:
        patience.lost(gone)
    with pytest.raises(Unreachable):
        patience.lost(gone)
    assert now[0] < GIVE_UP + 6
    assert said == ["the server is gone; trying again for 60 s"]
    back = now[0]
    patience.found()
    patience.lost(Refused(Exit.ERROR, "the history is locked", 503))
    assert said[1:] == [
        f"the server is back after 1m {int(back) - 60}s",
        "the history is locked; trying again for 60 s",
    ]
    with pytest.raises(Refused):
        patience.lost(Refused(Exit.NOT_FOUND, "there is no such build", 404))


def test_heartbeat_is_for_silence_only() -> None:
    said: list[str] = []
    quiet, never = Heartbeat(0.0, said.append), Heartbeat(60.0, said.append)
    quiet.beat("alive")
    never.beat("too early")
    Heartbeat(0.0, None).beat("nobody listens")
    assert said == ["alive"]
