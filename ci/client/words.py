"""What we were called, what that means, and how to name the other commands in hints.

Whoever types `bs` has `bt` and `bl` as well; verbs without a short name are always
written with `build-client`.
"""

from __future__ import annotations

import os
import re

from ci.client.text import printable

CLIENT = "build-client"
VERBS = (
    *("trigger", "status", "logs", "history", "cancel", "retry", "pin", "unpin"),
    *("queue", "open", "doctor", "address", "completion"),
)

_SHORT = {"trigger": "bt", "status": "bs", "logs": "bl"}
_LONG = {verb: f"build-{verb}" for verb in _SHORT}
_CALLED = {name: verb for names in (_SHORT, _LONG) for verb, name in names.items()}
_SAFE = r"[A-Za-z0-9_@%+=:,./#-]+"


class Words:
    """`name` is the last part of argv[0]; `verb` what it stands for, None for any."""

    def __init__(self, argv0: str) -> None:
        name = os.path.basename(argv0)
        # Nix wraps a program under the name `.NAME-wrapped`.
        wrapped = re.fullmatch(r"\.(.+)-wrapped", name)
        name = wrapped[1] if wrapped else name
        self.verb = _CALLED.get(name)
        self.name = name if self.verb else CLIENT
        self._names = _LONG if name in _LONG.values() else _SHORT if self.verb else {}

    def command(self, verb: str, *arguments: str) -> str:
        """The command as its user would type it: `bl -f 412`."""
        name = self._names.get(verb) or f"{CLIENT} {verb}"
        return " ".join([name, *map(quoted, arguments)])


def quoted(argument: str) -> str:
    """For a POSIX shell, as far as it can be printed."""
    argument = printable(argument)
    if re.fullmatch(_SAFE, argument):
        return argument
    return "'" + argument.replace("'", "'\"'\"'") + "'"
