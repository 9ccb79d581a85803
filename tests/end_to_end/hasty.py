"""The real server that posts statuses and looks after its disk without long pauses.

`python -m tests.end_to_end.hasty serve --config …` is `build-server serve` but for that:
what otherwise takes hours can be seen in seconds.
"""

from __future__ import annotations

from functools import partial

from ci import assembly
from ci.cli import main
from ci.report.outbox import Outbox, Pace
from ci.upkeep import Rhythm, Upkeep

PACE = Pace(gap=0.005, hourly=1_000_000)
RHYTHM = Rhythm(first=1.0, every=1.0, while_low=1.0, apart=0.2, builds=10)


def hurry() -> None:
    """Hand the shorter pauses to the parts of the composition that have them."""
    parts = vars(assembly)
    assert parts["Outbox"] is Outbox
    assert parts["Upkeep"] is Upkeep
    parts["Outbox"] = partial(Outbox, pace=PACE)
    parts["Upkeep"] = partial(Upkeep, rhythm=RHYTHM)


if __name__ == "__main__":
    hurry()
    main()
