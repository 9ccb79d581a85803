"""The manual page of the clients, made from their parsers.

`python -m tests.client.manual` writes docs/build-client.1 anew; a test compares.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator

from ci.client import exits, options
from ci.client.address import DEFAULT, SYSTEM_FILE
from ci.client.arguments import ABOUT, parser
from ci.client.words import CLIENT, VERBS, Words
from tests.fakes import tree

PAGE = tree.CHECKOUT / "docs" / "build-client.1"
GLOBAL = "for every command"
NAMES = {
    "trigger": "bt, build-trigger",
    "status": "bs, build-status",
    "logs": "bl, build-logs",
}
DESCRIPTION = """\
Asks a build-server: what it builds, how that ended, and why.
One program under several names: as bt, bs or bl the name is the verb.
Results go to stdout, hints and progress to stderr. When stdout is no terminal there are no
symbols, no headings, no colours and no ages, and what is told is separated by tabs."""
BUILDS = {
    "412, #412": "the build of that number",
    "last, -1": "the newest one; -2 is the one before it (bs -1 is --short)",
    "1a2b3c4": "the build of the commit whose SHA begins so: 7 digits or more",
    "dev": "the newest of that branch",
    "http://.../builds/412": "the page, as it was pasted",
    "nothing": "in a checkout the build of HEAD, else the newest of its branch, else of "
    "its repository; elsewhere the newest of the server's first repository",
}
FILES = {
    "$XDG_CONFIG_HOME/build-server/client.toml": 'server = "URL": which server to ask '
    "(~/.config without the variable)",
    SYSTEM_FILE: "the same for everybody",
}
ENVIRONMENT = {
    "BUILD_SERVER_URL": f"which server to ask, before the files; in the end {DEFAULT}",
    "BUILD_SERVER_TOKEN_FILE": "a file with the token that the server wants for changes",
    "NO_COLOR, FORCE_COLOR, CLICOLOR_FORCE, TERM": "whether there are colours, without "
    "--color; TERM=dumb has none, and --wait draws nothing there",
    "COLUMNS": "the width, instead of the terminal's own",
    "BROWSER": "what opens a page, programs separated by colons, before xdg-open, "
    "wslview and open",
}
EXAMPLES = {
    "bt -w": "build the newest commit and wait for its result",
    "bs -w && notify-send built": "the exit code is the result",
    "bl --grep 'error:' 412": "the lines that match",
    "bs --json=failed | jq -r '.failed[]'": "the targets that failed",
    f'eval "$({CLIENT} completion bash)"': "completion, also for zsh and fish",
}


def page() -> str:
    """The page in the man macros, ASCII only."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield '.TH BUILD\\-CLIENT 1 "" build\\-server "User Commands"'
    yield from (".SH NAME", _roff(f"{CLIENT}, bt, bs, bl - ask a build-server"))
    yield from (".SH SYNOPSIS", ".nf")
    for verb in VERBS:
        names = [NAMES[verb].partition(",")[0]] if verb in NAMES else []
        for name in [*names, f"{CLIENT} {verb}"]:
            arguments = f"[OPTION ...] {options.POSITIONAL[verb]}".rstrip()
            yield f"\\fB{_roff(name)}\\fR {_roff(arguments)}"
    yield from (".fi", ".SH DESCRIPTION", *map(_roff, DESCRIPTION.splitlines()))
    yield ".SH COMMANDS"
    for verb in VERBS:
        yield from _verb(verb)
    yield from (".SH OPTIONS OF EVERY COMMAND", *_options("doctor", every=True))
    yield from (".SH WHICH BUILD", *_terms(BUILDS.items()))
    yield from (".SH EXIT STATUS", *_terms(_codes()))
    yield from (".SH ENVIRONMENT", *_terms(ENVIRONMENT.items()))
    yield from (".SH FILES", *_terms(FILES.items()))
    yield from (".SH EXAMPLES", *_terms(EXAMPLES.items()))
    yield from (".SH SEE ALSO", ".BR nix (1),", ".BR git (1)")


def _verb(verb: str) -> Iterator[str]:
    also = f" ({NAMES[verb]})" if verb in NAMES else ""
    yield ".SS " + _roff(f"{verb} {options.POSITIONAL[verb]}".rstrip() + also)
    yield _roff(ABOUT[verb][0].upper() + ABOUT[verb][1:] + ".")
    yield from _options(verb, every=False)


def _options(verb: str, *, every: bool) -> Iterator[str]:
    """Those of one verb, or those that every verb has."""
    for group in parser(Words(CLIENT), verb)._action_groups:
        if (group.title == GLOBAL) is every:
            shown = [each for each in group._group_actions if each.dest != "help"]
            yield from _terms((_named(each), each.help or "") for each in shown)


def _named(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar)
    value = "" if action.nargs == 0 else f" {action.metavar}"
    if action.nargs == "?":
        value = f"[={action.metavar}]"
    return ", ".join(action.option_strings) + value


def _codes() -> Iterator[tuple[str, str]]:
    yield from re.findall(r"^ *(\d+)  (.+)$", exits.EXPLAINED, re.M)


def _terms(terms: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in terms:
        yield from (".TP", f".B {_roff(term)}", _roff(meaning))


def _roff(text: str) -> str:
    """Text as it is: nothing in it is a request, a quote or another dash."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("…", "...").replace('"', "\\(dq")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti").replace("`", "\\(ga")
    assert text.isascii(), text
    return f"\\&{text}" if text.startswith(".") else text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="ascii")
