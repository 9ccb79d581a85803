"""The arguments of each verb, and what their values may be."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable

from ci.client.text import duration, timestamp

STATES = ("queued", "running", "succeeded", "failed", "error", "cancelled", "skipped")
SHELLS = ("bash", "zsh", "fish")
TAKE_FIELDS = frozenset(
    {"trigger", "status", "history", "cancel", "retry", "pin", "unpin", "queue"}
)
BUILD = "412, last, -1, a SHA (7 digits or more), a branch, or a build's URL"
HERE = "default: the build of HEAD in a checkout, else the newest"
LONGEST = 3600.0
POSITIONAL = {
    "trigger": "[REF]",
    "status": "[BUILD]",
    "logs": "[BUILD [TARGET]]",
    "history": "",
    "cancel": "BUILD",
    "retry": "BUILD",
    "pin": "BUILD",
    "unpin": "BUILD",
    "queue": "",
    "open": "[BUILD]",
    "doctor": "",
    "address": "",
    "completion": "SHELL",
}

Parser = argparse.ArgumentParser


def _add_build(parser: Parser, *, required: bool = False) -> None:
    parser.add_argument(
        "build",
        nargs=None if required else "?",
        metavar="BUILD",
        help=BUILD if required else f"{BUILD}; {HERE}",
    )


def _add_json(parser: argparse._ActionsContainer, what: str) -> None:
    parser.add_argument(
        "--json",
        nargs="?",
        metavar="FIELD,…",
        help=f"{what}; --json=number,state only those",
    )


def _add_waiting(parser: Parser) -> None:
    """Whoever follows a log wants no JSON after it."""
    wait = "wait; exit with the result"
    parser.add_argument("-w", "--wait", action="store_true", help=wait)
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "-f", "--follow", action="store_true", help="stream the log, then as --wait"
    )
    _add_json(either, "BUILD as JSON")


def _trigger(parser: Parser) -> None:
    add = parser.add_argument
    add("ref", nargs="?", metavar="REF", help="a branch or a SHA; default: the first")
    _add_waiting(parser)
    add("--force", action="store_true", help="build again what has ended already")
    add(
        "--target",
        action="append",
        metavar="PATTERN",
        help='such as "packages.*", instead of the configured ones; may be repeated',
    )


def _status(parser: Parser) -> None:
    _add_build(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "-w", "--watch", action="store_true", help="until it ends; exit with the result"
    )
    how.add_argument("-1", "--short", action="store_true", help="one line, for prompts")
    add = parser.add_argument
    add("--fail-fast", action="store_true", help="with -w: end at the first failure")
    add("--exit-zero", action="store_true", help="exit with 0 whatever the result")
    _add_json(parser, "BUILD as JSON; with -w one line per change")


def _logs(parser: Parser) -> None:
    _add_build(parser)
    add = parser.add_argument
    add("target", nargs="?", metavar="TARGET", help="one target's lines, or part of it")
    add("-f", "--follow", action="store_true", help="as it grows; exit with the result")
    add(
        "-n",
        "--lines",
        type=count,
        metavar="N",
        help="the last so many lines (default: 200 on a terminal, else all)",
    )
    times = "when each line was written, before it (UTC)"
    add("-t", "--timestamps", action="store_true", help=times)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--failed", action="store_true", help="of every failed target")
    which.add_argument("--all", action="store_true", help="of all, not the failed one")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--raw", action="store_true", help="the bytes as they are")
    how.add_argument("--json", action="store_true", help="a JSON object per line")
    add("--grep", type=pattern, metavar="RE", help="lines that match")


def _history(parser: Parser) -> None:
    add = parser.add_argument
    add("-n", "--limit", type=count, metavar="N", help="so many (default: 20)")
    add("--branch", metavar="NAME", help="of one branch")
    states = ", ".join(STATES)
    add("--status", "--state", choices=STATES, metavar="STATE", help=states)
    add("--since", type=since, metavar="WHEN", help="2d, 12h or 2026-11-20")
    _add_json(parser, "a list of BUILD as JSON")


def _change(parser: Parser) -> None:
    _add_build(parser, required=True)
    _add_json(parser, "BUILD as JSON")


def _retry(parser: Parser) -> None:
    _add_build(parser, required=True)
    _add_waiting(parser)


def _queue(parser: Parser) -> None:
    _add_json(parser, "a list of BUILD as JSON")


def _address(parser: Parser) -> None:
    parser.add_argument(
        "--json", action="store_true", help='{"server": "…", "source": "…"}'
    )


def _completion(parser: Parser) -> None:
    parser.add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help="bash, zsh, fish"
    )


def _doctor(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="a list of checks as JSON")


ADD: dict[str, Callable[[Parser], None]] = {
    "trigger": _trigger,
    "status": _status,
    "logs": _logs,
    "history": _history,
    "cancel": _change,
    "retry": _retry,
    "pin": _change,
    "unpin": _change,
    "queue": _queue,
    "open": _add_build,
    "doctor": _doctor,
    "address": _address,
    "completion": _completion,
}


def seconds(value: str) -> float:
    """More than 0, at most an hour."""
    try:
        found = float(value)
    except ValueError:
        found = 0.0
    if not 0 < found <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"{value!r} is not a number of seconds from 0.1 to {LONGEST:g}"
        )
    return found


def count(value: str) -> int:
    """A whole number from 1 on."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", value, re.ASCII):
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number from 1 on")
    return int(value)


def pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error as error:
        sentence = f"{value!r} is not a regular expression: {error}"
        raise argparse.ArgumentTypeError(sentence) from None


def since(value: str) -> float:
    """Seconds since the epoch of `2d` ago, of a date, or of an RFC 3339 time."""
    ago = duration(value)
    moment = time.time() - ago if ago is not None else timestamp(value)
    if moment is None:
        raise argparse.ArgumentTypeError(
            f"{value!r} is no time; write e.g. 2d, 12h, 2026-11-20"
        )
    return moment
