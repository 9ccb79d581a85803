"""Phases of a build as lines of its log.

A builder tells the daemon in which phase it is; today's stdenv prints a line as well,
before it tells, older ones do not. With the same line in every log one can fold any.
Names are a builder's own words: shown, never believed.
"""

from __future__ import annotations

from ci.text import printable

MARK = b"Running phase: "
LONGEST_NAME = 100


class Phases:
    """What is still to be said of each derivation, by path, and what it said last."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}
        self._untold: dict[str, bytes] = {}

    def begins(self, derivation: str, name: str) -> bytes | None:
        """A phase begins; returns a line to write first: of one that said nothing."""
        line = MARK + printable(name[:LONGEST_NAME]).encode()
        before = self._untold.pop(derivation, None)
        if self._last.get(derivation) != line:
            self._untold[derivation] = line
        return before

    def says(self, derivation: str, line: bytes) -> bytes | None:
        """The derivation says `line`; returns a line to write before it."""
        untold = self._untold.pop(derivation, None)
        self._last[derivation] = line if line.startswith(MARK) else b""
        return None if untold == line else untold

    def ends(self, derivation: str) -> bytes | None:
        """The derivation has ended; returns the line of a phase that said nothing."""
        self._last.pop(derivation, None)
        return self._untold.pop(derivation, None)
