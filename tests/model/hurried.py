"""The real server, with short pauses between one try and the next.

`python hurried.py serve --config …` is `build-server serve` whose pauses of seconds and
minutes are fractions of a second; nothing else differs. Otherwise a minute of random
faults would be a minute of waiting.
"""

from __future__ import annotations

from functools import partial

from ci import assembly
from ci.build.scheduler import Scheduler
from ci.cli import main
from ci.report.outbox import Outbox, Pace

PACE = Pace(
    gap=0.005,
    hourly=1_000_000,
    first_retry=0.05,
    longest_retry=0.4,
    longest_outage_pause=0.2,
)
RETRY_DELAYS = (0.05, 0.1, 0.2)


def hurry() -> None:
    """Hand the shorter pauses to the two parts of the composition that have any."""
    parts = vars(assembly)
    assert parts["Outbox"] is Outbox
    assert parts["Scheduler"] is Scheduler
    parts["Outbox"] = partial(Outbox, pace=PACE)
    parts["Scheduler"] = partial(Scheduler, retry_delays=RETRY_DELAYS)


if __name__ == "__main__":
    hurry()
    main()
