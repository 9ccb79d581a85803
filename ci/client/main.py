"""bt, bs, bl and build-client: one program, and the name it is called by is the verb."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from ci.client import lost
from ci.client.arguments import parse
from ci.client.builds import Malformed
from ci.client.exits import Exit, Failure
from ci.client.session import Session
from ci.client.terminal import Screen
from ci.client.words import Words

HIDDEN = "__complete"


def main() -> int:
    """Run the verb of argv; returns the exit code."""
    words = Words(sys.argv[0])
    arguments = _arguments(words, sys.argv[1:])
    session: Session | None = None
    try:
        session = Session(arguments, words, os.environ)
        return int(_run(session))
    except Failure as failure:
        screen = session.screen if session else Screen(words.name, os.environ)
        screen.fail(failure.sentence)
        return failure.code


def _arguments(words: Words, given: list[str]) -> argparse.Namespace:
    """What was typed, or what a shell asks us about what is being typed."""
    if given[:1] != [HIDDEN]:
        return parse(words, given)
    from ci.client import complete

    return complete.parse(given[1:])


def _run(session: Session) -> int:
    command = import_module(f"ci.client.commands.{session.arguments.verb}")
    try:
        return int(command.run(session))
    except Malformed:
        raise lost.foreign(session.address) from None
    except BrokenPipeError:
        # Whoever read us has seen enough.
        session.screen.discard()
        return Exit.OK
    except KeyboardInterrupt:
        return Exit.DETACHED
    finally:
        session.server.close()


if __name__ == "__main__":
    sys.exit(main())
