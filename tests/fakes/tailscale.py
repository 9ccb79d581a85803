"""A stand-in for the `tailscale` program: `status`, `serve` and `funnel`, no network.

It keeps what tailscaled would in one JSON file; its rules are in tailscale_program.py.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes import tailscale_program
from tests.fakes.tailscale_program import HOST, LINK, STATE

__all__ = ["HOST", "LINK", "Tailscale"]


@dataclass(frozen=True)
class Tailscale:
    """Programs in `directory` to put on PATH, and what they keep."""

    directory: Path

    @classmethod
    def installed(cls, directory: Path, **state: Any) -> Tailscale:
        """`allowed`: Funnel may be used. `states`: what BackendState is, in turn.

        `host`: the machine's name in the tailnet, HOST if nothing else is said.
        """
        directory.mkdir()
        program = directory / "tailscale"
        source = Path(tailscale_program.__file__).read_text()
        program.write_text(f"#!{sys.executable} -IS\n{source}")
        program.chmod(0o755)
        # Nobody waits in a test.
        (directory / "sleep").symlink_to("/bin/true")
        made = cls(directory)
        made.write({"allowed": True, "states": ["Running"], "calls": []} | state)
        return made

    @property
    def env(self) -> dict[str, str]:
        return {STATE: str(self.file), "PATH": f"{self.directory}:{os.environ['PATH']}"}

    @property
    def file(self) -> Path:
        return self.directory / "state.json"

    def read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.file.read_text())
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        self.file.write_text(json.dumps(state))

    def change(self, **state: Any) -> None:
        self.write(self.read() | state)

    def config(self) -> dict[str, Any]:
        """What `tailscale serve status --json` says."""
        config: dict[str, Any] = self.read().get("config") or {}
        return config

    def changes(self) -> list[list[str]]:
        """The commands that were to change something, in order."""
        calls: list[list[str]] = self.read()["calls"]
        return [call for call in calls if "status" not in call]

    def run(self, *argv: str) -> None:
        """As somebody would by hand."""
        tailscale_program.run(list(argv), str(self.file))
