"""Remotes that git reaches by ssh, and an ssh that fails on demand; no network."""

from __future__ import annotations

from pathlib import Path

# git runs `ssh … host command`; the command is run here, unless the network is down. A
# connection that is cut ends after some bytes, whatever the other side still waits for.
SSH = """\
#!/bin/sh
for command; do :; done
case "$(cat {mode})" in
down) echo "ssh: connect to host remote.invalid port 22: No route to host" >&2
      exit 255 ;;
cut)  exec 3<&0
      (sh -c "$command" <&3 3<&- &) | dd bs=1 count=700 2>/dev/null
      exit 255 ;;
*)    exec sh -c "$command" ;;
esac
"""


class Network:
    """An `ssh` in the folder `programs` that leads to the paths of this machine."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._file = folder / "network"
        self.say("up")
        program = self.programs / "ssh"
        program.write_text(SSH.format(mode=self._file))
        program.chmod(0o755)

    def say(self, mode: str) -> None:
        """`up`, `down`, or `cut`: connections break after a few hundred bytes."""
        self.mode = mode
        new = self._file.with_suffix(".new")
        new.write_text(mode)
        new.replace(self._file)

    @staticmethod
    def url(path: Path) -> str:
        """How git names the repository at `path`."""
        return f"ssh://git@remote.invalid{path}"
