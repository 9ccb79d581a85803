"""The drawn rows of a terminal go away again, whenever a signal ends the program."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import termios
from contextlib import suppress
from io import FileIO
from types import FrameType

import pyte
import pytest

from ci.client import region as module
from ci.client.region import Region
from ci.client.terminal import Screen, Side

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
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.number)
        return self


def _draw(region: Region) -> None:
    region.draw(ROWS)
    region.draw(ROWS[:2], ["said for good"])
    region.clear()
    region.draw(ROWS)


def _shown(interruption: Interruption) -> tuple[pyte.Screen, bytes]:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (LINES, COLUMNS))
    screen = Screen("bs", {"TERM": "xterm"})
    screen.out = Side(slave, {"TERM": "xterm"}, None)
    before = sys.gettrace()
    try:
        with suppress(SystemExit, KeyboardInterrupt), Region(screen) as region:
            sys.settrace(interruption)
            try:
                _draw(region)
            finally:
                sys.settrace(before)
    finally:
        os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        data = b"".join(iter(lambda: _read(terminal), b""))
    shown = pyte.Screen(COLUMNS, LINES)
    pyte.ByteStream(shown).feed(data)
    return shown, data


def _read(terminal: FileIO) -> bytes:
    try:
        return terminal.read(65536)
    except OSError as error:
        # Linux says so where others say end of file.
        if error.errno == errno.EIO:
            return b""
        raise


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_any_instruction_leaves_nothing_drawn(
    number: signal.Signals,
) -> None:
    for instruction in itertools.count(1):
        interruption = Interruption(number, instruction)
        shown, data = _shown(interruption)
        left = [line.rstrip() for line in shown.display if line.strip()]
        assert left in ([], ["said for good"]), (instruction, data)
        assert not shown.cursor.hidden, (instruction, data)
        assert data.count(b"\x1b[?2026h") == data.count(b"\x1b[?2026l")
        if interruption.left > 0:
            break
    assert instruction > 100
