"""What one run of the client has at hand: its arguments, the screen, the server."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping

from ci.client import address
from ci.client.api import Api
from ci.client.builds import Build
from ci.client.choose import Chooser
from ci.client.exits import Exit
from ci.client.http import SILENCE, Server
from ci.client.look import Look
from ci.client.patience import Heartbeat, Patience
from ci.client.terminal import Screen, Side
from ci.client.words import Words


class Session:
    """Puts the parts together; nothing is asked of the server yet."""

    def __init__(
        self, arguments: argparse.Namespace, words: Words, environ: Mapping[str, str]
    ) -> None:
        self.arguments = arguments
        self.words = words
        self.screen = Screen(
            words.name,
            environ,
            colour=arguments.color,
            quiet=arguments.quiet,
            verbose=arguments.verbose,
        )
        self.environ = environ
        self.address = address.find(arguments.server, environ)
        self.server = Server(
            self.address,
            timeout=arguments.timeout,
            token=lambda: address.token(environ),
            trace=self.screen.trace,
        )
        self.api = Api(self.server)
        self.chooser = Chooser(
            self.api,
            repo=arguments.repo,
            directory=_directory(),
            hint=self.screen.hint,
        )

    def look(self, side: Side | None = None) -> Look:
        return Look(side or self.screen.out, self.words, self.server.now())

    def patience(self, pause: Callable[[float], None] = time.sleep) -> Patience:
        return Patience(self.screen.hint, pause=pause)

    def heartbeat(self) -> Heartbeat:
        """Not where the cursor can be moved: there, its reader sees that we wait."""
        alive = not self.screen.out.draws
        return Heartbeat(SILENCE, self.screen.hint if alive else None)

    def detached(self, build: Build, verb: str, *arguments: str) -> Exit:
        """Ctrl-C while we waited: the build goes on without us."""
        again = self.words.command(verb, *arguments)
        self.screen.hint(f"detached: #{build.number} goes on. Again: {again}")
        return Exit.DETACHED


def _directory() -> str:
    """The working directory; `/` when it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"
