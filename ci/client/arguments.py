"""The command line: what all verbs share. Only the parser of the verb at hand is built."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence

from ci import __version__
from ci.client import options
from ci.client.exits import EXPLAINED
from ci.client.terminal import WIDTH, columns
from ci.client.words import CLIENT, VERBS, Words

TIMEOUT = 10.0

ABOUT = {
    "trigger": "build a commit now",
    "status": "show a build; exit as it did",
    "logs": "print a log",
    "history": "list builds",
    "cancel": "end a build",
    "retry": "build again what has ended",
    "pin": "keep a build and its results",
    "unpin": "let go of a pinned build",
    "queue": "show what runs and what waits, and why",
    "open": "open the page of a build",
    "doctor": "check the way to the server",
    "address": "show which server is asked, and why that one",
    "completion": "print what makes a shell complete all this",
}


def parse(words: Words, arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments, with `verb` set; exits with 2 (usage) or 0 (help) by itself."""
    chosen = argparse.Namespace()
    verb = words.verb
    if verb is None:
        _parse(parser(words, None), arguments, chosen)
        verb, arguments = chosen.verb, chosen.rest
    if verb in options.TAKE_FIELDS:
        arguments = _joined(arguments)
    if verb == "status":
        # It has an option -1, so argparse takes -2 for an option as well.
        arguments = [
            f"#{each}" if re.fullmatch("-(?:[2-9]|[1-9][0-9])", each) else each
            for each in arguments
        ]
    _parse(parser(words, verb), arguments, chosen)
    return chosen


def _parse(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    chosen: argparse.Namespace,
) -> None:
    """As argparse does it, but who mistypes an option or a verb is told which is near."""
    unknown = parser.parse_known_args(arguments, chosen)[1]
    if unknown:
        known = re.findall(r"(?<![\w-])--[a-z-]+", parser.format_help())
        near = _near(unknown[0].partition("=")[0], known)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{near}")
    verb = chosen.verb
    if verb not in VERBS:
        near = _near(verb, VERBS) or f"; there are {', '.join(VERBS)}"
        parser.error(f"there is no verb {verb!r}{near}")


def _near(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]}?" if found else ""


def parser(words: Words, verb: str | None) -> argparse.ArgumentParser:
    """That of a verb, or of what stands before the verb."""
    return _overview() if verb is None else _of_verb(words, verb)


class _Help(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal: argparse would load shutil to find that out."""

    def __init__(self, prog: str) -> None:
        width = min(columns(1, os.environ), WIDTH) - 2
        super().__init__(prog, max_help_position=min(28, width // 3), width=width)


def _overview() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {verb:<11} {ABOUT[verb]}" for verb in VERBS)
    parser = _plain(
        CLIENT,
        "VERB …",
        "Asks a build-server.\nbt is trigger, bs status, bl logs.",
        f"verbs:\n{verbs}\n\n{CLIENT} VERB --help says more.\n\n{EXPLAINED}",
    )
    _add_globals(parser, suppress=False)
    parser.add_argument("verb", metavar="VERB", help="see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _of_verb(words: Words, verb: str) -> argparse.ArgumentParser:
    prog = words.name if words.verb else f"{CLIENT} {verb}"
    about = ABOUT[verb][0].upper() + ABOUT[verb][1:] + "."
    parser = _plain(prog, options.POSITIONAL[verb], about, EXPLAINED)
    options.ADD[verb](parser)
    _add_globals(parser, suppress=words.verb is None)
    parser.set_defaults(verb=verb)
    return parser


def _plain(
    prog: str, arguments: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=prog,
        usage=f"%(prog)s [OPTION …] {arguments}".rstrip(),
        description=description,
        epilog=epilog,
        allow_abbrev=False,
        formatter_class=_Help,
    )


def _joined(arguments: Sequence[str]) -> list[str]:
    """`--json` takes its fields only behind `=`: a word after it is a BUILD."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [
        "--json=" if index < end and argument == "--json" else argument
        for index, argument in enumerate(arguments)
    ]


def _add_globals(parser: argparse.ArgumentParser, *, suppress: bool) -> None:
    """The options of every verb; `suppress` keeps what stood in front of the verb."""

    def default(value: object) -> object:
        return argparse.SUPPRESS if suppress else value

    group = parser.add_argument_group("for every command")
    add = group.add_argument
    add("--server", metavar="URL", default=default(None), help="the server to ask")
    add(
        "-R",
        "--repo",
        metavar="OWNER/NAME",
        default=default(None),
        help="of this repository",
    )
    add(
        "--color",
        choices=("auto", "always", "never"),
        metavar="WHEN",
        default=default("auto"),
        help="auto, always or never (default: auto)",
    )
    add("-q", "--quiet", action="store_true", default=default(False), help="no hints")
    add(
        "-v",
        "--verbose",
        action="store_true",
        default=default(False),
        help="say what is asked of the server",
    )
    add(
        "--timeout",
        type=options.seconds,
        metavar="SECONDS",
        default=default(TIMEOUT),
        help=f"for one answer (default: {TIMEOUT:g})",
    )
    group.add_argument("--version", action="version", version=f"{CLIENT} {__version__}")
