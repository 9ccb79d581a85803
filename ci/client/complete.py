"""What may stand at the end of a command line: for the shells, by what is there already.

Verbs and options are those of the parsers; what is only known to the server comes from
the caller.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

from ci.client import arguments
from ci.client.words import CLIENT, VERBS, Words

Candidate = tuple[str, str]
"""A word, and what to say of it."""


class Line:
    """A command line up to the cursor, taken apart as the command itself would do it.

    `kind` is what is wanted at its end: `verb`, `option`, or the name of the argument;
    `prefix` the part of it that is there. `given` are the positional arguments before.
    """

    def __init__(self, typed: Sequence[str]) -> None:
        *before, self.prefix = typed if len(typed) > 1 else [*typed, ""]
        self.words = Words(before[0])
        self.verb = self.words.verb
        self.values: dict[str, str] = {}
        self.given: list[str] = []
        self.front = ""
        self._read_actions()
        pending = self._read(before[1:])
        self.action, self.kind = pending, pending.dest if pending else ""
        if pending is None:
            self._what_comes()

    def option(self, name: str) -> str | None:
        """The value that an option has on this line."""
        return self.values.get(name)

    def static(self) -> Iterator[Candidate]:
        """What does not depend on the server."""
        if self.kind == "verb":
            yield from ((verb, arguments.ABOUT[verb]) for verb in VERBS)
        elif self.kind == "option":
            for name, action in self._options.items():
                if action.help != argparse.SUPPRESS:
                    yield name, action.help or ""
        elif self.action is not None and self.action.choices is not None:
            yield from ((str(choice), "") for choice in self.action.choices)

    def matching(self, candidates: Iterator[Candidate]) -> Iterator[Candidate]:
        """Those that begin as the word at the cursor does, whole."""
        seen = set()
        for value, about in candidates:
            plain = value.isprintable() and value.split() == [value]
            if plain and value.startswith(self.prefix) and value not in seen:
                seen.add(value)
                yield self.front + value, about

    def _read_actions(self) -> None:
        parser = arguments.parser(self.words, self.verb)
        actions = parser._actions
        self._options = {
            name: action for action in actions for name in action.option_strings
        }
        self._positional = [each for each in actions if not each.option_strings]

    def _read(self, typed: Sequence[str]) -> argparse.Action | None:
        """Everything before the cursor; the option that waits for its value, if any."""
        pending: argparse.Action | None = None
        for word in typed:
            name, joined, value = word.partition("=")
            if pending is not None:
                self.values[pending.dest], pending = word, None
            elif name in self._options:
                action = self._options[name]
                if joined:
                    self.values[action.dest] = value
                elif action.nargs is None:
                    pending = action
            elif self.verb is None and word in VERBS:
                self.verb = word
                self._read_actions()
            else:
                self.given.append(word)
        return pending

    def _what_comes(self) -> None:
        name, joined, value = self.prefix.partition("=")
        if joined and name in self._options:
            self.action = self._options[name]
            self.kind = self.action.dest
            self.front, self.prefix = f"{name}=", value
        elif self.prefix.startswith("-"):
            self.kind = "option"
        elif self.verb is None:
            self.kind = "verb"
        elif len(self.given) < len(self._positional):
            self.action = self._positional[len(self.given)]
            self.kind = self.action.dest


def parse(typed: Sequence[str]) -> argparse.Namespace:
    """The arguments of `__complete`: the line, and what it says about the server."""
    line = Line(typed or [CLIENT])
    return argparse.Namespace(
        verb="complete",
        line=line,
        server=line.option("server"),
        repo=line.option("repo"),
        color="never",
        quiet=True,
        verbose=False,
        timeout=arguments.TIMEOUT,
    )


def candidates(
    line: Line, live: Callable[[str], Iterator[Candidate]]
) -> Iterator[Candidate]:
    """Everything that may come; `live` is asked for what the server knows of a kind."""
    found = list(line.static())
    yield from line.matching(iter(found) if found else live(line.kind))
