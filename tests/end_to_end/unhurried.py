"""The real server that answers a request when it knows what came of it, and not before.

`python unhurried.py serve --config …` is `build-server serve` whose answers to triggers,
cancels and retries wait for the outcome for a minute instead of three seconds: on a
machine that stands still for so long they would be told later. And whose stop would wait
for two minutes, instead of five seconds, for readers who do not leave.
"""

from __future__ import annotations

from pathlib import Path

from ci import assembly
from ci.cli import main
from ci.serve import actions

PROGRAM = (str(Path(__file__)),)


def take_time() -> None:
    vars(actions)["PATIENCE"] = 60.0
    assembly.PRIVATE["shutdown_timeout"] = 120.0


if __name__ == "__main__":
    take_time()
    main()
