"""The drawn rows of a terminal go away again, whenever a signal ends the program."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from types import FrameType

import pyte
import pytest

from ci.client import region as module
from ci.client.region import Region
from ci.client.terminal import Screen, Side
from tests.fakes.tree import CHECKOUT

ROWS = ["heading", "a target", "its log"]
COLUMNS, LINES = 40, 12


class Interruption:
    """Sends a signal before the n-th instruction that `region` executes."""

    def __init__(self, number: signal.Signals, left: int) -> None:
        self.number = number
        self.left = left

    def __call__(
        self, frame: FrameType, event: str, argument: object
    ) -> Interruption | None:
        if frame.f_code.co_filename != module.__file__:
            return None
        frame.f_trace_opcodes = True
        # As long as it is `region` that hears it.
        heard = signal.getsignal(self.number) != signal.SIG_DFL
        if event == "opcode" and heard:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.number)
        return self


def _draw(region: Region) -> None:
    region.draw(ROWS)
    region.draw(ROWS[:2], ["said for good"])
    region.clear()
    region.draw(ROWS)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Who is interrupted at its very end may leave its handlers; in a program it ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGWINCH)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)


def _written(interruption: Interruption) -> bytes:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (LINES, COLUMNS))
    screen = Screen("bs", {"TERM": "xterm"})
    screen.out = Side(slave, {"TERM": "xterm"}, None)
    before = sys.gettrace()
    try:
        with (
            _handlers_kept(),
            suppress(SystemExit, KeyboardInterrupt),
            Region(screen) as region,
        ):
            sys.settrace(interruption)
            _draw(region)
    finally:
        sys.settrace(before)
        os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        return b"".join(iter(lambda: _read(terminal), b""))


def _shown(data: bytes) -> pyte.Screen:
    shown = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(shown).feed(data)
    return shown


def _read(terminal: FileIO) -> bytes:
    try:
        return terminal.read(65536)
    except OSError as error:
        # Linux says so where others say end of file.
        if error.errno == errno.EIO:
            return b""
        raise


def interrupt_everywhere(number: signal.Signals) -> None:
    known: set[bytes] = set()
    for instruction in itertools.count(1):
        interruption = Interruption(number, instruction)
        data = _written(interruption)
        if data not in known:
            known.add(data)
            shown = _shown(data)
            left = [line.rstrip() for line in shown.display if line.strip()]
            assert left in ([], ["said for good"]), (instruction, data)
            assert not shown.cursor.hidden, (instruction, data)
            assert data.count(b"\x1b[?2026h") == data.count(b"\x1b[?2026l")
        if interruption.left > 0:
            break
    assert instruction > 100


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_instruction_leaves_nothing_drawn(
    number: signal.Signals,
) -> None:
    interrupt_everywhere(number)


CTRL_Z = """
import signal
from tests.client.test_region import interrupt_everywhere
interrupt_everywhere(signal.SIGTSTP)
"""


def test_ctrl_z_at_any_instruction_leaves_nothing_drawn_in_the_end() -> None:
    # The kernel stops nobody in a session without a shell: it goes on at once.
    argv = [sys.executable, "-c", CTRL_Z]
    done = subprocess.run(
        argv, cwd=CHECKOUT, start_new_session=True, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
