"""Where the words go: results to stdout, hints to stderr, and how they may look there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping

from ci.client.text import width, wrap

WIDTH = 80

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "magenta": "35",
    "cyan": "36",
}


class Side:
    """One of the two ways out; `width` is the terminal's, in columns."""

    def __init__(
        self, descriptor: int, environ: Mapping[str, str], colour: str | None
    ) -> None:
        self.descriptor = descriptor
        try:
            os.fstat(descriptor)
        except OSError:
            # The caller has closed it: whatever is said there is for nobody.
            self.discard()
        self._file = open(descriptor, "wb", closefd=False)  # noqa: SIM115
        self.tty = self._file.isatty()
        self._environ = environ
        self.width = WIDTH
        self.measure()
        self.make_room: Callable[[], None] | None = None
        """Takes away what is drawn at the end of the terminal, before a line comes."""
        self.colour = wants_colour(colour, environ, self.tty)
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    @property
    def draws(self) -> bool:
        """Whether it is a terminal on which the cursor can be moved."""
        return self.tty and self._environ.get("TERM", "") not in ("", "dumb")

    def measure(self) -> None:
        """Look how wide the terminal is now."""
        if self.tty:
            self.width = columns(self.descriptor, self._environ)

    def encoded(self, text: str) -> bytes:
        """As this side takes it; what it has no character for is `?`."""
        return text.encode(self._encoding, "replace")

    def line(self, text: str) -> None:
        """One line, at once."""
        if self.make_room is not None:
            self.make_room()
        self.write(self.encoded(text) + b"\n")
        self.flush()

    def lines(self, lines: Iterable[str]) -> None:
        self.line("\n".join(lines))

    def write(self, data: bytes) -> None:
        """Bytes as they are, buffered."""
        self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def sentence(self, text: str) -> None:
        """One line; on a terminal that is too narrow for it, broken between words."""
        if self.tty and width(text) > self.width:
            self.lines(wrap(text, self.width))
        else:
            self.line(text)

    def paint(self, style: str, text: str) -> str:
        """`text` in a style, where colours are wanted."""
        if not self.colour or not style or not text:
            return text
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def discard(self) -> None:
        """Nobody reads any more: what is left may go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        # A closed descriptor is the first that the system gives again.
        if nowhere != self.descriptor:
            os.dup2(nowhere, self.descriptor)
            os.close(nowhere)


class Screen:
    """Both sides and the name under which we speak."""

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        *,
        colour: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        self.name = name
        self.out = Side(1, environ, colour)
        self.err = Side(2, environ, colour)
        self._quiet = quiet
        self._verbose = verbose

    def hint(self, text: str) -> None:
        """What helps but is no result; `--quiet` leaves it out."""
        if not self._quiet:
            self.err.sentence(f"{self.name}: {text}")

    def trace(self, text: str) -> None:
        """What only `--verbose` shows."""
        if self._verbose:
            self.err.sentence(f"{self.name}: {text}")

    def heading(self, text: str) -> None:
        """A hint that stands above a result on a terminal, set apart from it."""
        if not self._quiet:
            self.err.line(f"{self.err.paint('dim', '──')} {text}")

    def fail(self, text: str) -> None:
        """Why the command ends."""
        self.err.sentence(f"{self.name}: {text}")

    def discard(self) -> None:
        """A reader has gone."""
        self.out.discard()
        self.err.discard()


def wants_colour(choice: str | None, environ: Mapping[str, str], tty: bool) -> bool:
    """`--color`, then NO_COLOR, then FORCE_COLOR and CLICOLOR_FORCE, then the terminal."""
    if choice in ("always", "never"):
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        if environ.get(name, "0") not in ("", "0"):
            return True
    return tty and environ.get("TERM") != "dumb"


def columns(descriptor: int, environ: Mapping[str, str]) -> int:
    """How wide the terminal is: COLUMNS, else what it says itself, else WIDTH."""
    given = environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(descriptor).columns or WIDTH
    except OSError:
        return WIDTH
