"""The real server, which waits longer for the outcome of what people ask.

`python patient.py serve --config …` is `build-server serve` whose answer to a trigger, a
cancel or a retry waits a minute for what became of it, not three seconds: a disk that is
flushed meanwhile may take those. STOP_WAITS of its environment is how many seconds a stop
waits for readers who do not leave. Nothing else differs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ci import assembly
from ci.cli import main
from ci.serve.api import private_application

PROGRAM = (str(Path(__file__)),)
PATIENCE = 60.0


def wait_for_outcomes() -> None:
    parts = vars(assembly)
    assert parts["private_application"] is private_application
    parts["private_application"] = partial(private_application, patience=PATIENCE)
    if "STOP_WAITS" in os.environ:
        assembly.PRIVATE["shutdown_timeout"] = float(os.environ["STOP_WAITS"])


if __name__ == "__main__":
    wait_for_outcomes()
    main()
