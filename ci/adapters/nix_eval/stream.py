"""What a running `nix eval` writes to standard error: marks for us, the rest for people.

Nothing here does I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ci.adapters.nix_eval.faults import Places, plain, without_internals

LONGEST_LINE = 64 * 1024
HELD = 1024 * 1024
# Nix's own git, fetching from the mirror; memory warnings by the hundred; and 2.x's
# surprise about the network that an evaluation does not have.
NOISE = re.compile(
    rb"remote: |From (?:file|https?|ssh)://| \* (?:\[new ref\]|branch) |GC Warning: "
    rb"|warning: you don't have Internet access"
)


class Stderr:
    """Splits the stream into lines; the trace of an error comes whole, at the end.

    `marks` are the JSON values that followed `mark` on lines of `builtins.trace`, in
    order; everything else goes to `say`, in whole lines wherever there are any.
    `places` gets to know the flake's store path once a mark tells it as `tree`.
    """

    def __init__(self, mark: str, places: Places, say: Callable[[bytes], None]) -> None:
        self._prefix = f"trace: {mark}".encode()
        self._say = say
        self.places = places
        self._partial = b""
        self._held = bytearray()
        self.marks: list[dict[str, Any]] = []

    def feed(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._partial) > LONGEST_LINE and self._prefix not in self._partial:
            self._show(self._partial)
            self._partial = b""

    def finish(self) -> None:
        """The stream has ended: say what was held back."""
        if self._partial:
            self._line(self._partial)
            self._partial = b""
        self._release()

    def _line(self, line: bytes) -> None:
        # Git's progress does not end its lines.
        before, mark, value = line.partition(self._prefix)
        if mark:
            self._note(json.loads(value))
        if not NOISE.match(before) and (before or not mark):
            self._show(before + b"\n")

    def _note(self, mark: dict[str, Any]) -> None:
        self.marks.append(mark)
        if "tree" in mark:
            self.places = replace(self.places, source=mark["tree"])

    def _show(self, text: bytes) -> None:
        if self._held or text.startswith(b"error:"):
            self._held += text
            if len(self._held) > HELD:
                self._release()
        else:
            self._say(text)

    def _release(self) -> None:
        if self._held:
            text = without_internals(plain(bytes(self._held)))
            self._held.clear()
            if path := self.marks[-1].get("path") if self.marks else None:
                text = f"while evaluating {'.'.join(path)}:\n{text}"
            self._say(self.places.shorten(text).encode())
