"""What this host was short of while something ran: then its failure proves nothing.

A builder that finds the disk full, or loses a process to the kernel's out-of-memory
killer, exits with a code like any other. Nix tells the first when the disk is still full
at that moment, and never the second. So the host is looked at, not the log.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ci.adapters.host import Clocks, SleepWatch, read_clocks
from ci.errors import DiskFull, HostFault, HostLimit
from ci.models import human_seconds

# With less free than this, or than this share of a small disk, a write has failed.
NOTHING_LEFT = 32 * 1024**2
SHARE = 50
# Seconds after which the next look is due at the latest, on a host that is awake.
DUE = 10.0
VMSTAT = Path("/proc/vmstat")


class Strain:
    """Made when the work begins; `places` are directories by what people call them.

    A place that does not exist is not looked at. `vmstat` is None where processes run
    under limits of their own, so that the kernel's kills say nothing about this host;
    `within_limits` counts those of them that befell other jobs of ours.
    """

    def __init__(
        self,
        places: Mapping[str, Path],
        vmstat: Path | None = VMSTAT,
        *,
        clocks: Callable[[], Clocks] = read_clocks,
        within_limits: Callable[[], int] = int,
    ) -> None:
        self._places = places
        self._vmstat = vmstat
        self._within_limits = within_limits
        self._kills = self._host_kills()
        self._sleep = SleepWatch(clocks)
        self._full: dict[str, int] = {}
        self._stood_still = 0.0

    def look(self) -> None:
        """See how much room there is now, and whether time has jumped.

        Look every second or so. Takes microseconds on a local disk.
        """
        self._stood_still += self._sleep.look(DUE)
        for name, path in self._places.items():
            try:
                found = os.statvfs(path)
            except OSError:
                continue
            free = found.f_bavail * found.f_frsize
            if free < min(NOTHING_LEFT, found.f_blocks * found.f_frsize // SHARE):
                self._full[name] = min(free, self._full.get(name, free))

    def reason(self) -> HostFault | None:
        """Why a failure until now proves nothing, None when nothing speaks against it."""
        self.look()
        if self._full:
            name, free = next(iter(self._full.items()))
            return DiskFull(
                f"{name} was down to {free // 1024**2} MiB while it was built"
            )
        kills = self._host_kills() - self._kills
        if kills > 0:
            return HostLimit(
                f"memory ran out while it was built: the kernel killed {kills} "
                f"process{'es' * (kills != 1)} of this host"
            )
        if self._stood_still:
            return HostFault(
                f"this host stood still for {human_seconds(self._stood_still)} while it "
                "was built"
            )
        return None

    def _host_kills(self) -> int:
        return _oom_kills(self._vmstat) - self._within_limits()


def _oom_kills(vmstat: Path | None) -> int:
    """Processes that the kernel has killed for want of memory since it booted."""
    if vmstat is None:
        return 0
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line[9:]) for line in lines if line.startswith("oom_kill ")), 0)
