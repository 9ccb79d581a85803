"""The real server with a weak spot: it dies, errs or misreads the clock as it is told.

`python mortal_server.py serve --config …` is `build-server serve` that waits less from one
status, message or clean-up to the next. Its environment says what befalls it:

    CRASH_AT=ci.history.deliveries.accept:done,…    SIGKILL at the first of these moments of
                                                    a transaction (database.Moment)
    CRASHED=file          written with the moment, right before
    RECORD=file           a line for each moment of each transaction
    BREAK=ci.history.queue., BREAK_WHILE=file       a defect in the transactions whose name
                                                    begins so, while that file exists
    CLOCK=file            seconds by which the wall clock is wrong, read at every look
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

PROGRAM = Path(__file__)


def misread_the_clock(file: Path) -> None:
    """Shift what Python's programs take for the time of day; `file` says by how much."""
    right = time.time_ns

    def wrong() -> int:
        return right() + int(float(file.read_text()) * 1e9)

    time.time_ns = wrong
    time.time = lambda: wrong() / 1e9


class Fate:
    """Watches the transactions (database.watcher) and does what was asked for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._crash_at = environ.get("CRASH_AT", "").split(",")
        self._crashed = environ.get("CRASHED", os.devnull)
        self._record = environ.get("RECORD")
        self._broken = environ.get("BREAK")
        self._while = Path(environ.get("BREAK_WHILE", os.devnull))

    def __call__(self, name: str, moment: str) -> None:
        point = f"{name}:{moment}"
        if self._record is not None:
            with open(self._record, "a") as record:
                record.write(f"{point}\n")
        if point in self._crash_at:
            Path(self._crashed).write_text(point)
            os.kill(os.getpid(), signal.SIGKILL)
        if self._broken and name.startswith(self._broken) and self._while.exists():
            raise RuntimeError("broken on purpose")


if __name__ == "__main__":
    if "CLOCK" in os.environ:
        misread_the_clock(Path(os.environ["CLOCK"]))
    from ci import assembly
    from ci.cli import main
    from ci.history import database
    from ci.report.notify import Notifier, Pace
    from ci.report.outbox import Outbox
    from ci.upkeep import Rhythm, Upkeep
    from tests.model.hurried import PACE

    database.watcher = Fate(os.environ)
    vars(assembly)["Outbox"] = partial(Outbox, pace=PACE)
    soon = Pace(first_retry=0.2, longest_retry=1.0, longest_outage_pause=0.5)
    vars(assembly)["Notifier"] = partial(Notifier, pace=soon)
    often = Rhythm(first=0.2, every=0.5, while_low=0.5, apart=0.1)
    vars(assembly)["Upkeep"] = partial(Upkeep, rhythm=often)
    main()
