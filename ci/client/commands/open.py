"""`build-client open`: the page of a build, in a browser; its address in any case."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from ci.client.exits import Exit
from ci.client.session import Session
from ci.client.text import printable

PROGRAMS = ("xdg-open", "wslview", "open")
PATIENCE = 3.0
"""Seconds in which a program that finds no browser has said so."""


def run(session: Session) -> int:
    build = session.chooser.choose(session.arguments.build)
    session.screen.out.line(build.url)
    # The address is what a server said: it may be a page and nothing else.
    if not build.url.startswith(("http://", "https://")):
        session.screen.hint("that is no address of a page, so it is not opened")
        return Exit.OK
    command = _command(build.url, session.environ)
    if command is None:
        session.screen.hint(f"none of {', '.join(PROGRAMS)} is here, and no BROWSER")
    elif problem := _start(command):
        session.screen.hint(f"{printable(command[0])}: {problem}")
    return Exit.OK


def _command(url: str, environ: Mapping[str, str]) -> list[str] | None:
    """The first program that is there, with its arguments; None without one."""
    for candidate in _candidates(environ):
        found = _which(candidate[0], environ.get("PATH", os.defpath))
        if found is not None:
            arguments = [each.replace("%s", url) for each in candidate[1:]]
            return [found, *(arguments if url in arguments else [*arguments, url])]
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[list[str]]:
    """Those of BROWSER, which are separated by colons, then the desktops' own."""
    import shlex

    for each in environ.get("BROWSER", "").split(":"):
        try:
            words = shlex.split(each)
        except ValueError:
            continue
        if words:
            yield words
    # Elsewhere `open` may be another program.
    own = reversed(PROGRAMS) if sys.platform == "darwin" else PROGRAMS
    for name in own:
        yield [name]


def _which(program: str, path: str) -> str | None:
    if "/" in program:
        return program if os.access(program, os.X_OK) else None
    for directory in path.split(os.pathsep):
        found = os.path.join(directory, program)
        if directory and os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None


def _start(command: list[str]) -> str:
    """Start it for itself: it outlives us. What went wrong at once, or nothing."""
    import subprocess

    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        return error.strerror or "cannot be started"
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        # It is the browser itself. Nobody waits for it.
        process.returncode = 0
        return ""
    return f"ended with {code}; open the page yourself" if code else ""
