"""Reading a log, and following one that grows, over as many connections as it takes.

What was printed is never printed twice and nothing is left out: a new connection begins
at the byte where the last one broke off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ci.client.api import Api, Log, place
from ci.client.builds import Build
from ci.client.exits import Exit, Failure, Refused
from ci.client.http import Query, Silent
from ci.client.look import life_sign
from ci.client.patience import Heartbeat, Patience
from ci.client.printers import Lines, Raw

Printer = Lines | Raw
Take = Callable[[bytes], tuple[bytes, list[str]]]


class Reader:
    """Where we are in the log of one build: `offset` bytes into `attempt`'s.

    `attempt` 0 is the one to come. A `target`'s lines cannot be asked for by offset, so
    the ones already seen are skipped. `timed`: the printer is told when lines were
    written; `offset` counts the log's own bytes all the same.
    """

    def __init__(
        self,
        api: Api,
        build: Build,
        printer: Printer,
        *,
        target: str | None = None,
        attempt: int = 0,
        offset: int = 0,
        timed: bool = False,
    ) -> None:
        self._api = api
        self._build = build
        self._printer = printer
        self._target = target
        self._attempt = attempt
        self._offset = offset
        self._timed = timed
        # Whether what has come ends in the middle of a line.
        self._within = False

    def read(self) -> None:
        """What is there now, but for the printer's `end`."""
        self._take()

    def follow(self, *, patience: Patience, heartbeat: Heartbeat) -> Build:
        """Until the build has ended; returns it."""
        while True:
            try:
                self._take(patience, heartbeat)
                over = True
            except Silent:
                over = False
            except Failure as problem:
                patience.lost(problem)
                continue
            build = self._look(patience)
            if not over:
                heartbeat.beat(life_sign(build, self._api.server.now()))
            elif build.final:
                self._printer.end()
                return build
            else:
                self._begin_next()

    def _look(self, patience: Patience) -> Build:
        while True:
            try:
                build = self._api.build(self._build.number)
            except Failure as problem:
                patience.lost(problem)
            else:
                patience.found()
                return build

    def _begin_next(self) -> None:
        """The attempt has ended and the build has not: it will be tried again."""
        self._printer.end()
        self._attempt, self._offset = 0, 0
        self._within = False

    def _take(
        self, patience: Patience | None = None, heartbeat: Heartbeat | None = None
    ) -> None:
        """Print what is there, and with `patience` what comes, until the attempt ends."""
        query = self._query(follow=patience is not None)
        with self._log(query) as (headers, body):
            if patience is not None:
                patience.found()
            if not self._offset:
                # Nothing is printed yet, so it may be a later attempt than we waited for.
                self._attempt = place(headers, "Attempt")
            skip = self._offset if self._target is not None else 0
            take = self._taking()
            for chunk in body:
                text, times = take(chunk)
                fresh = text[skip:]
                if fresh:
                    self._printer.write(fresh, times[_begun(text, skip, times) :])
                    self._within = not fresh.endswith(b"\n")
                skip = max(0, skip - len(text))
                self._offset += len(fresh)
                if heartbeat is not None:
                    heartbeat.news()

    def _taking(self) -> Take:
        """What makes (text, times) of the chunks of one answer."""
        if not self._timed:
            return lambda chunk: (chunk, [])
        from ci.client.times import Times

        return Times(begins=self._target is not None or not self._within).take

    @contextmanager
    def _log(self, query: Query) -> Iterator[Log]:
        try:
            with self._api.log(self._build.number, query) as log:
                yield log
        except Refused as refusal:
            if self._timed and "parameter times" in refusal.sentence:
                sentence = "this server is too old to tell times; leave out -t"
                raise Failure(Exit.USAGE, sentence) from refusal
            raise

    def _query(self, *, follow: bool) -> Query:
        """An attempt that has not begun cannot be named yet."""
        begun = self._offset > 0
        return {
            "attempt": self._attempt if begun else None,
            "offset": self._offset if begun and self._target is None else None,
            "target": self._target,
            "follow": 1 if follow else None,
            "times": 1 if self._timed else None,
        }


def _begun(text: bytes, skip: int, times: list[str]) -> int:
    """How many of the lines with these times begin in the first `skip` bytes."""
    if not (skip and times):
        return 0
    # A line more than newlines, when the text begins with one.
    first = len(times) - text.count(b"\n", 0, len(text) - 1)
    return first + text.count(b"\n", 0, skip - 1)
