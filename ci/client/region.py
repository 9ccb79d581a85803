"""Some rows at the end of a terminal that are drawn anew in place, below what is said.

Never the alternate screen: what is said stays in the scrollback. The cursor rests,
hidden, where the first of the rows begins: however a terminal breaks them anew when it is
resized, erasing all below the cursor takes all of them away and nothing else.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, TracebackType

from ci.client.terminal import Screen

SHARE = 3
"""The rows take at most one part in so many of the terminal's height."""
TERMINATED = 128 + signal.SIGTERM

# DEC 2026: a terminal that knows it shows a frame when it is whole; others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
_HIDE, _SHOW = "\x1b[?25l", "\x1b[?25h"
# Rows that a terminal thinks wider than we do are cut by it instead of broken.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ERASE = "\r\x1b[J"

_Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None


class Region:
    """To be used in `with`: at its end the rows are gone and the cursor is back."""

    def __init__(self, screen: Screen) -> None:
        self._out = screen.out
        self._sides = [side for side in (screen.out, screen.err) if side.tty]
        self._drawn = False
        self._before: dict[signal.Signals, _Handler] = {}
        self._wake = -1, -1
        self._wakeup_before = -1

    @property
    def height(self) -> int:
        """How many rows may be drawn; at least one."""
        try:
            lines = os.get_terminal_size(self._out.descriptor).lines
        except OSError:
            lines = 0
        return max(1, lines // SHARE)

    def __enter__(self) -> Region:
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        self._wakeup_before = signal.set_wakeup_fd(
            self._wake[1], warn_on_full_buffer=False
        )
        handlers = {
            signal.SIGWINCH: _notice,
            signal.SIGTERM: self._leave,
            signal.SIGTSTP: self._suspend,
        }
        # A shell's `&` has had Ctrl-C ignored.
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
            handlers[signal.SIGINT] = self._interrupt
        for number, handler in handlers.items():
            self._before[number] = signal.signal(number, handler)
        for side in self._sides:
            side.make_room = self.clear
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for side in self._sides:
            side.make_room = None
        self._restore()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        for end in self._wake:
            os.close(end)

    def draw(self, rows: Sequence[str], above: Sequence[str] = ()) -> None:
        """One frame: `above` is said for good, `rows` stand below it until the next."""
        self._out.measure()
        said = _ERASE + "".join(f"{line}\n" for line in above) if above else "\r"
        shown = list(rows)[: self.height]
        # Each row erases what stood in its place first, the last one all that is below.
        drawn = "".join(f"\x1b[K{row}\n" for row in shown[:-1])
        drawn += "\x1b[J" + "".join(shown[-1:])
        back = f"\x1b[{len(shown) - 1}A" if len(shown) > 1 else ""
        # Said first: a signal may end the program right after the write.
        self._drawn = True
        self._write(
            f"{_BEGIN}{_HIDE}{said}{_NO_WRAP}{drawn}\r{back}{_WRAP}{_END}",
        )

    def clear(self) -> None:
        """Take the rows away: something else is going to be said where they are."""
        if self._drawn:
            self._write(_ERASE)
            self._drawn = False

    def pause(self, seconds: float, descriptors: Sequence[int] = ()) -> bool:
        """Wait so long, or until the terminal has another size, or one can be read.

        Returns whether one of `descriptors` can.
        """
        wake = self._wake[0]
        ready, _, _ = select.select([wake, *descriptors], [], [], seconds)
        if wake in ready:
            with suppress(BlockingIOError):
                os.read(wake, 4096)
        return any(each in ready for each in descriptors)

    def _restore(self) -> None:
        # The terminal may have gone; then there is nothing to restore.
        with suppress(OSError):
            self.clear()
            self._write(_SHOW)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        # Here, for a second signal may come before the end of `with` does it.
        self._restore()
        raise SystemExit(TERMINATED)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        raise KeyboardInterrupt

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its terminal as it was; the next frame draws anew."""
        drawn = self._drawn
        self._restore()
        # It may have come in the middle of a frame.
        self._drawn = drawn
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspend)

    def _write(self, text: str) -> None:
        """Past the buffer: a signal's handler may write as well."""
        left = self._out.encoded(text)
        while left:
            try:
                left = left[os.write(self._out.descriptor, left) :]
            except BlockingIOError:
                # Another program on the same terminal has made it so.
                select.select([], [self._out.descriptor], [])


def _notice(number: int, frame: FrameType | None) -> None:
    """The wake-up descriptor tells it to whoever pauses."""
