"""How a command can end: the exit codes, and the failures that carry one.

Shells, prompts and history keepers store these numbers; they never change.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the caller's `$?` says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STOPPED = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    UNREACHABLE = 6
    ERROR = 7
    UNFINISHED = 8
    DETACHED = 130


EXPLAINED = """\
exit codes:
    0  ok
    1  the build failed
    2  usage
    3  cancelled or skipped
    4  not allowed
    5  no such build, branch, …
    6  server unreachable
    7  error, not the commit's fault
    8  queued or running
  130  detached; the build goes on"""

_OF_STATE = {
    "succeeded": Exit.OK,
    "failed": Exit.FAILED,
    "cancelled": Exit.STOPPED,
    "skipped": Exit.STOPPED,
    "error": Exit.ERROR,
    "queued": Exit.UNFINISHED,
    "running": Exit.UNFINISHED,
}


def of_state(state: str) -> Exit:
    """The code of a build's state; a state that this version does not know is `ERROR`."""
    return _OF_STATE.get(state, Exit.ERROR)


class Failure(Exception):
    """Ends the command with `code` and one sentence, which is safe to print.

    `passing` tells that it may be over soon: who waits for a build asks again.
    """

    passing = False

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence


class Unreachable(Failure):
    """No build-server answers at `address`: the problem, a question, where to look."""

    passing = True

    def __init__(self, address: str, problem: str, question: str, fix: str) -> None:
        super().__init__(Exit.UNREACHABLE, f"{address} {problem}; {question}?")
        self.problem = problem
        self.fix = fix


class Refused(Failure):
    """The server understood and said no, with this HTTP status."""

    def __init__(self, code: Exit, sentence: str, status: int) -> None:
        super().__init__(code, sentence)
        self.status = status
        self.passing = status >= 500
