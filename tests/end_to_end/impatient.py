"""The real server with little patience.

`python impatient.py serve --config …` is `build-server serve` for which a remote has
stalled after two seconds (IMPATIENT_STALL of its environment says another number) and a
daemon is gone after three, which the cache may keep waiting for eight, and which holds
results for one. Other pauses are as in tests/model/hurried.py and patient.py. It speaks
plain HTTP to remotes of this machine, which only tests have. Nothing else differs.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from ci import assembly, workshop
from ci.adapters.git import Mirror
from ci.adapters.nix_daemon import connection
from ci.build import scheduler, watch
from ci.build.fetchable import FetchCheck
from ci.build.holder import Holder
from ci.build.slots import Slots
from ci.cli import main
from ci.upkeep import watch as disk_watch
from tests.end_to_end.patient import wait_for_outcomes
from tests.model.hurried import hurry

PROGRAM = (str(Path(__file__)),)
STALL = int(os.environ.get("IMPATIENT_STALL", "2"))
LENT_AFTER = 0.5
PATIENCE = 8.0
HELD = 1.0


def mirror(path: Path, url: str, **options: Any) -> Mirror:
    for host in ("127.0.0.1", "localhost"):
        url = url.replace(f"https://{host}", f"http://{host}")
    return Mirror(path, url, stall=STALL, **options)


def lose_patience() -> None:
    hurry()
    wait_for_outcomes()
    vars(disk_watch)["POLL"] = 0.5
    vars(assembly)["FetchCheck"] = partial(FetchCheck, patience=PATIENCE)
    vars(workshop)["Mirror"] = mirror
    vars(workshop)["Holder"] = partial(Holder, linger=HELD)
    vars(scheduler)["Slots"] = partial(Slots, patience=LENT_AFTER)
    vars(connection)["GREETING_WITHIN"] = 3.0
    vars(watch)["SETTLE"] = 0.5


if __name__ == "__main__":
    lose_patience()
    main()
