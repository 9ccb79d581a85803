"""What holds jobs back in a running server: control groups, or else resource limits."""

from __future__ import annotations

import json
from pathlib import Path

from ci.adapters import cgroup
from ci.adapters.cgroup import Kernel


def limits_in_force(state_dir: Path, kernel: Kernel | None = None) -> str:
    """Which of the two is in force in the server of `state_dir`; reads files of /proc."""
    kernel = kernel or Kernel()
    holder = _holder(state_dir)
    if holder is None or not (kernel.proc / str(holder)).exists():
        return "no server runs, whose limits could be seen"
    base = cgroup.shared_out(holder, kernel)
    if base is not None:
        return f"memory and processes are limited by cgroup, below {base}"
    return (
        "memory and processes are limited by resource limits, memory for each process "
        "alone (write Delegate=yes into the unit, and a job is limited as a whole)"
    )


def _holder(state_dir: Path) -> int | None:
    """The process that the lock of the state directory names."""
    try:
        return int(json.loads((state_dir / "lock").read_bytes())["pid"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
