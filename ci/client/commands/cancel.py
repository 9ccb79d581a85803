"""`build-client cancel`: end a build that waits or runs."""

from __future__ import annotations

from ci.client import as_json, report
from ci.client.exits import Exit
from ci.client.session import Session


def run(session: Session) -> int:
    out = session.screen.out
    as_json.check(session.arguments.json)
    build = session.chooser.choose(session.arguments.build)
    asked = session.api.change(build.number, "cancel")
    if asked.build is None:
        session.screen.hint(asked.message)
    now = asked.build or build
    if session.arguments.json is not None or not out.tty:
        report.show(session, now)
        return Exit.OK
    look = session.look()
    done = "cancelled" if now.state == "cancelled" else "cancelling"
    was, _ = look.verdict(build)
    undo = session.words.command("retry", str(build.number))
    out.line(f"{look.mark('cancelled')} {done} #{build.number} (was {was})")
    out.line(f"  undo: {undo}")
    return Exit.OK
