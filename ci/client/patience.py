"""How long we go on when the server is gone in the middle of something."""

from __future__ import annotations

import time
from collections.abc import Callable

from ci.client.exits import Failure, Unreachable
from ci.client.text import human_seconds

GIVE_UP = 60.0
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0


class Patience:
    """Pauses after each failure, longer each time, and gives up after GIVE_UP seconds.

    For servers that have answered before: one that never did is not worth waiting for.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._say = say
        self._clock = clock
        self._pause = pause
        self._lost_at: float | None = None
        self._next_pause = FIRST_PAUSE

    @property
    def tried(self) -> bool:
        """Whether the last answer did not come."""
        return self._lost_at is not None

    def found(self) -> None:
        """The server answers."""
        if self._lost_at is not None:
            gone = human_seconds(self._clock() - self._lost_at)
            self._say(f"the server is back after {gone}")
        self._lost_at, self._next_pause = None, FIRST_PAUSE

    def lost(self, problem: Failure) -> None:
        """It does not: wait a little, or raise `problem`."""
        if not problem.passing:
            raise problem
        now = self._clock()
        if self._lost_at is None:
            self._lost_at = now
            what = problem.sentence
            if isinstance(problem, Unreachable):
                what = f"the server {problem.problem}"
            self._say(f"{what}; trying again for {GIVE_UP:g} s")
        if now - self._lost_at >= GIVE_UP:
            raise problem
        self._pause(self._next_pause)
        self._next_pause = min(self._next_pause * 2, LONGEST_PAUSE)


class Heartbeat:
    """A sign of life every `every` seconds while there is nothing else to say."""

    def __init__(self, every: float, say: Callable[[str], None] | None) -> None:
        self._every = every
        self._say = say
        self._last = time.monotonic()

    def news(self) -> None:
        """Something else was said."""
        self._last = time.monotonic()

    def beat(self, text: str) -> None:
        """Say it, when it is time."""
        now = time.monotonic()
        if self._say is not None and now - self._last >= self._every:
            self._say(text)
            self._last = now
