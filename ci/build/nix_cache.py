"""Nix's own cache of a repository: its clone of the mirror, and what it fetched.

It is made anew when missing. Where it is damaged (a power cut, a full disk) Nix says so in
many ways, some of which look like faults of the commit, or it never ends. So whatever
sounds like it is believed only of an evaluation that began with an empty cache.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from ci.errors import CommitFault, HostFault

SOUNDS_LIKE_IT = re.compile(
    r"libgit2|sqlite|program 'git'|through git|git repository|tarball-cache|gitv3"
    r"|Failed to open archive|asked the network|took longer than|read the mirror",
    re.IGNORECASE,
)
ENTRIES = "nix"


class NixCache:
    """The directory `path`, for one evaluation; its methods but `fault` do I/O."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fresh = True

    def open(self) -> None:
        """Make it when it is absent; `fresh` tells whether Nix has left nothing there."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.fresh = not (self.path / ENTRIES).exists()

    def suspected(self, error: CommitFault | HostFault) -> bool:
        """Whether it may be to blame for this end of an evaluation."""
        known = isinstance(error, HostFault) and type(error) is not HostFault
        if self.fresh or known:
            return False
        return SOUNDS_LIKE_IT.search(str(error)) is not None

    def fault(self, why: str) -> HostFault:
        """What to raise instead of believing `why`."""
        return HostFault(
            "Nix's cache of this repository may be damaged, so it was thrown away and "
            f"the next attempt begins without: {why}"
        )

    def discard(self) -> None:
        """Remove it, out of everybody's sight first."""
        grave = self.path.with_name(f"{self.path.name}.damaged")
        shutil.rmtree(grave, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.rename(self.path, grave)
        shutil.rmtree(grave, ignore_errors=True)
