"""`bs`: one build in at most eight lines; its result is the exit code."""

from __future__ import annotations

from contextlib import suppress

from ci.client import exits, report
from ci.client.exits import Exit, Failure
from ci.client.look import short
from ci.client.session import Session


def run(session: Session) -> int:
    arguments = session.arguments
    build = session.chooser.choose(arguments.build)
    if arguments.watch:
        code = report.wait(session, build, fail_fast=arguments.fail_fast)
    else:
        if arguments.short and arguments.json is None:
            out = session.screen.out
            out.line(short(build, session.look(), ticking=out.tty))
        elif arguments.json is not None:
            report.show(session, session.api.detailed(build))
        else:
            report.show(session, build)
            _tell_missed(session)
        code = exits.of_state(build.state)
    if arguments.exit_zero and code is not Exit.DETACHED:
        return Exit.OK
    return code


def _tell_missed(session: Session) -> None:
    """Pushes that GitHub told of too late: builds may come from days ago."""
    missed, recovered = 0, 0
    with suppress(Failure):
        missed, recovered = session.api.missed()
    if missed:
        counts = f"{missed} missed, {recovered} recovered"
        session.screen.hint(f"webhook deliveries of the last 7 days: {counts}")
