"""Reading a log, and following one that grows, over as many connections as it takes.

What was printed is never printed twice and nothing is left out: a new connection begins
at the byte where the last one broke off.
"""

from __future__ import annotations

from ci.client.api import Api, place
from ci.client.builds import Build
from ci.client.exits import Failure
from ci.client.http import Query, Silent
from ci.client.look import life_sign
from ci.client.patience import Heartbeat, Patience
from ci.client.printers import Lines, Raw

Printer = Lines | Raw


class Reader:
    """Where we are in the log of one build: `offset` bytes into `attempt`'s.

    `attempt` 0 is the one to come. A `target`'s lines cannot be asked for by offset, so
    the ones already seen are skipped.
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
    ) -> None:
        self._api = api
        self._build = build
        self._printer = printer
        self._target = target
        self._attempt = attempt
        self._offset = offset

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

    def _take(
        self, patience: Patience | None = None, heartbeat: Heartbeat | None = None
    ) -> None:
        """Print what is there, and with `patience` what comes, until the attempt ends."""
        query = self._query(follow=patience is not None)
        with self._api.log(self._build.number, query) as (headers, body):
            if patience is not None:
                patience.found()
            if not self._offset:
                # Nothing is printed yet, so it may be a later attempt than we waited for.
                self._attempt = place(headers, "Attempt")
            skip = self._offset if self._target is not None else 0
            for chunk in body:
                fresh = chunk[skip:]
                skip = max(0, skip - len(chunk))
                self._offset += len(fresh)
                self._printer.write(fresh)
                if heartbeat is not None:
                    heartbeat.news()

    def _query(self, *, follow: bool) -> Query:
        """An attempt that has not begun cannot be named yet."""
        begun = self._offset > 0
        return {
            "attempt": self._attempt if begun else None,
            "offset": self._offset if begun and self._target is None else None,
            "target": self._target,
            "follow": 1 if follow else None,
        }
