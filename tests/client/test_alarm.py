"""An exchange that ends just when its time is over is one or the other, never a traceback."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import FrameType

from ci.client import http as module
from ci.client.address import Address
from ci.client.exits import Unreachable
from ci.client.http import Server
from tests.fakes.tree import CHECKOUT

# Long enough that the kernel itself never sends the alarm.
TIMEOUT = 50
OURS = (module.__file__, contextlib.__file__)


class Interruption:
    """Sends the alarm before the n-th instruction while it is set."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(
        self, frame: FrameType, event: str, argument: object
    ) -> Interruption | None:
        if frame.f_code.co_filename not in OURS:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and signal.getitimer(signal.ITIMER_REAL)[0] > 0:
            self.left -= 1
            if self.left == 0:
                # As the kernel does it: once.
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.raise_signal(signal.SIGALRM)
        return self


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"a": 1}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@contextmanager
def answering() -> Iterator[Address]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Address(f"http://127.0.0.1:{server.server_port}", "test")
        finally:
            server.shutdown()
            thread.join()


def interrupt_everywhere() -> None:
    said = set()
    with answering() as address:
        for instruction in itertools.count(1):
            interruption = Interruption(instruction)
            server = Server(
                address, timeout=TIMEOUT, token=lambda: None, trace=lambda text: None
            )
            sys.settrace(interruption)
            try:
                assert server.get("/") == {"a": 1}
            except Unreachable as problem:
                said.add(problem.problem)
            finally:
                sys.settrace(None)
                server.close()
            assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
            assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
            if interruption.left > 0:
                break
    assert said == {f"did not answer within {TIMEOUT} s"}
    assert instruction > 50


WHOLE = """
from tests.client.test_alarm import interrupt_everywhere
interrupt_everywhere()
"""


def test_an_alarm_at_any_instruction_is_told_as_such() -> None:
    # In a process of its own: the timeout of the tests uses the same alarm.
    argv = [sys.executable, "-c", WHOLE]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
