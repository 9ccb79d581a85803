"""The same work without a server: the commands a person would type for one commit."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pushing import CLOCK, Timeline
from tests.fakes.nix_stores import NixProgram
from tests.fakes.repository import Origin


@dataclass(frozen=True)
class ByHand:
    """A mirror in `folder`; `env` is what every command gets. Everything blocks."""

    folder: Path
    origin: Origin
    env: Mapping[str, str]

    @property
    def mirror(self) -> Path:
        return self.folder / "mirror.git"

    def prepare(self) -> ByHand:
        self.folder.mkdir()
        self._run(["git", "init", "--quiet", "--bare", str(self.mirror)])
        return self

    def fetch(self, sha: str) -> None:
        ref = f"+{sha}:refs/builds/{sha}"
        self._run(["git", "fetch", "--quiet", self.origin.url, ref], self.mirror)

    def command(self, sha: str) -> Timeline:
        """Fetch the commit, unpack it and run its `./ci`."""
        begun = time.time_ns()
        self.fetch(sha)
        files = self.folder / sha
        files.mkdir()
        unpack = f"git archive {sha} | tar -x -C {files}"
        self._run(["sh", "-c", unpack], self.mirror)
        return _timeline(begun, self._run(["./ci"], files))

    def flake(self, sha: str, nix: NixProgram) -> Timeline:
        """Fetch the commit and build its `packages.default`."""
        begun = time.time_ns()
        self.fetch(sha)
        url = f"git+file://{self.mirror}?ref=refs/builds/{sha}&rev={sha}#default"
        return _timeline(
            begun, self._run([nix.program, "build", "-L", "--no-link", url])
        )

    def _run(self, argv: Sequence[str], cwd: Path | None = None) -> bytes:
        done = subprocess.run(
            argv, cwd=cwd, env=dict(self.env), capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout + done.stderr


def _timeline(begun: int, output: bytes) -> Timeline:
    finished = time.time_ns()
    said = CLOCK.search(output)
    return Timeline(
        response=float("nan"),
        first=(int(said[1]) - begun) / 1e6 if said else float("nan"),
        finished=(finished - begun) / 1e6,
    )
