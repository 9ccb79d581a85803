"""The real server, which waits longer for the outcome of what people ask.

`python patient.py serve --config …` is `build-server serve` whose answer to a trigger, a
cancel or a retry waits a minute for what became of it, not three seconds: a disk that is
flushed meanwhile may take those. Nothing else differs.
"""

from __future__ import annotations

from pathlib import Path

from ci.cli import main
from ci.serve import actions

PROGRAM = (str(Path(__file__)),)
PATIENCE = 60.0


def wait_for_outcomes() -> None:
    vars(actions)["PATIENCE"] = PATIENCE


if __name__ == "__main__":
    wait_for_outcomes()
    main()
