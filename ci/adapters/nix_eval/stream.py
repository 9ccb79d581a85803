"""What a running `nix eval` writes to standard error: marks for us, the rest for people.

Nothing here does I/O.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ci.adapters.nix_eval.faults import Places, plain, without_internals
from ci.errors import CommitFault

LONGEST_LINE = 64 * 1024
HELD = 1024 * 1024
# A mark holds the names of attributes, which a flake can make as long as it likes.
LONGEST_MARK = 1024 * 1024
MARKS_KEPT = 8
# Nix's own git, fetching from the mirror; memory warnings by the hundred; and 2.x's
# surprise about the network that an evaluation does not have.
NOISE = re.compile(
    rb"remote: |From (?:file|https?|ssh)://| \* (?:\[new ref\]|branch) |GC Warning: "
    rb"|warning: you don't have Internet access"
)


class Stderr:
    """Splits the stream into lines; the trace of an error comes whole, at the end.

    `marks` are the last JSON values that followed `mark` on lines of `builtins.trace`, in
    order; everything else goes to `say`, in whole lines wherever there are any.
    `places` gets to know the flake's store path once a mark tells it as `tree`.
    """

    def __init__(self, mark: str, places: Places, say: Callable[[bytes], None]) -> None:
        self._prefix = f"trace: {mark}".encode()
        self._say = say
        self.places = places
        self._partial = b""
        self._held = bytearray()
        self.marks: deque[dict[str, Any]] = deque(maxlen=MARKS_KEPT)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes. Raises CommitFault for a name of a million characters."""
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._partial) <= LONGEST_LINE:
            return
        if self._prefix not in self._partial:
            self._show(self._partial)
            self._partial = b""
        elif len(self._partial) > LONGEST_MARK:
            self._partial = b""
            raise CommitFault("the name of an attribute is longer than a mebibyte")

    def finish(self) -> None:
        """The stream has ended: say what was held back."""
        if self._partial:
            self._line(self._partial)
            self._partial = b""
        self._release()

    def _line(self, line: bytes) -> None:
        # Git's progress does not end its lines.
        before, mark, value = line.partition(self._prefix)
        if mark and not self._noted(value):
            before, mark = line, b""
        if not NOISE.match(before) and (before or not mark):
            self._show(before + b"\n")

    def _noted(self, value: bytes) -> bool:
        """Whether it was a mark of ours; what is built meanwhile could have seen one."""
        try:
            mark = json.loads(value)
        except (ValueError, RecursionError):
            return False
        if not isinstance(mark, dict):
            return False
        self.marks.append(mark)
        if "tree" in mark:
            self.places = replace(self.places, source=str(mark["tree"]))
        return True

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
