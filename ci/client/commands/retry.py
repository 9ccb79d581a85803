"""`build-client retry`: build again what has ended, under the same number."""

from __future__ import annotations

import time

from ci.client import as_json, report
from ci.client.builds import Build
from ci.client.exits import Exit
from ci.client.session import Session

ACTED_ON = 60.0
PAUSE = 0.5


def run(session: Session) -> int:
    arguments = session.arguments
    as_json.check(arguments.json)
    build = session.chooser.choose(arguments.build)
    waiting = arguments.wait or arguments.follow
    asked = session.api.change(build.number, "retry")
    now = asked.build
    if now is None:
        session.screen.hint(asked.message)
        now = _acted_on(session, build) if waiting else build
    if now is None:
        return Exit.UNFINISHED
    if arguments.follow:
        return report.follow(session, now)
    if arguments.wait:
        return report.wait(session, now)
    if asked.build is not None and arguments.json is None and session.screen.out.tty:
        report.show_queued(session, now, again=True)
    else:
        report.show(session, now)
    return Exit.OK


def _acted_on(session: Session, before: Build) -> Build | None:
    """The build when it waits or runs again; None when that takes too long."""
    deadline = time.monotonic() + ACTED_ON
    while time.monotonic() < deadline:
        build = session.api.build(before.number)
        if not build.final or build.attempt != before.attempt:
            return build
        time.sleep(PAUSE)
    return None
