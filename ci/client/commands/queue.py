"""`build-client queue`: what runs and what waits, and why it does."""

from __future__ import annotations

from contextlib import suppress

from ci.client import text
from ci.client.as_json import dump_all
from ci.client.builds import Build
from ci.client.exits import Exit, Failure
from ci.client.look import UNKNOWN, Look, record
from ci.client.past import Past, look_back
from ci.client.session import Session

ASKED_FOR = 20
INDENT = "    "


def run(session: Session) -> int:
    arguments, out = session.arguments, session.screen.out
    runs, waits = session.api.at_work(arguments.repo)
    found = [*_detailed(session, runs), *_detailed(session, waits)]
    if arguments.json is not None:
        out.line(dump_all(found, arguments.json, pretty=out.tty))
    elif not found:
        session.screen.hint("nothing runs and nothing waits")
    elif out.tty:
        look = session.look()
        for build in found:
            out.lines(_lines(build, look, _past(session, build)))
    else:
        out.lines("\t".join((record(each), each.title, _why(each))) for each in found)
    return Exit.OK


def _detailed(session: Session, builds: list[Build]) -> list[Build]:
    """With the reasons of those that come first."""
    first = [session.api.detailed(build) for build in builds[:ASKED_FOR]]
    return [*first, *builds[ASKED_FOR:]]


def _past(session: Session, build: Build) -> Past | None:
    """Only what the server told already: no further question for each build."""
    with suppress(Failure):
        return look_back(session.api, build) if build.detailed else None
    return None


def _lines(build: Build, look: Look, past: Past | None) -> list[str]:
    from ci.client.render import headline

    doing = text.one_line(build.summary)
    said = [doing] if doing and not build.waits else []
    said += past.lines(build) if past else []
    rows = text.wrap(" · ".join(said), look.width - len(INDENT), 2)
    return [*headline(build, look), *(INDENT + row for row in rows)]


def _why(build: Build) -> str:
    """Words that do not tick: `watch -g` wakes on changes only."""
    return build.waits or text.one_line(build.summary) or UNKNOWN
