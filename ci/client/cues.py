"""When to look at a build again: the server says it, so that nobody has to keep asking.

What it says is not read. Whatever comes on the build's event stream, its beginning and
its signs of life too, is a reason to look; so nothing is missed that happened while no
stream was open, and what a proxy kept from us is seen a little later.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import TracebackType

from ci.client.api import Api
from ci.client.exits import Failure
from ci.client.http import SILENCE, Silent

FIRST_PAUSE = 3.0
LONGEST_PAUSE = 300.0


class Cues:
    """To be used in `with`. `descriptors` can be read when it may be time to look.

    Where there is no stream (an older server, a proxy that keeps or cuts it, too many who
    listen, nobody at all), it is always time, and a stream is asked for now and then.
    """

    def __init__(self, api: Api, number: int, *, silence: float = SILENCE) -> None:
        self.descriptors: list[int] = []
        self._api = api
        self._number = number
        self._silence = silence
        self._stack = ExitStack()
        self._pieces: Iterator[bytes] = iter(())
        self._heard_at = 0.0
        self._next_try = 0.0
        self._pause = FIRST_PAUSE

    def __enter__(self) -> Cues:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def given(self) -> bool:
        """Whether it is time to look."""
        now = time.monotonic()
        if not self.descriptors:
            if now >= self._next_try:
                self._open(now)
            return True
        # Pieces that came together are read one by one; none is younger than the look
        # that the first of them led to, so it does not matter when.
        if select.select(self.descriptors, [], [], 0)[0]:
            self._heard_at = now
            over = self._next() is None
        else:
            over = now - self._heard_at >= self._silence
            if not over:
                return False
        if over:
            self._close()
        return True

    def _next(self) -> bytes | None:
        try:
            return next(self._pieces, None)
        except (Failure, Silent):
            return None

    def _open(self, now: float) -> None:
        self._next_try = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        # Who looks meanwhile will be told what is the matter, and says it.
        with suppress(Failure):
            news = self._stack.enter_context(self._api.news(self._number))
            descriptor, self._pieces = news
            self.descriptors, self._heard_at = [descriptor], now
            self._pause = FIRST_PAUSE

    def _close(self) -> None:
        self._stack.close()
        self.descriptors = []
