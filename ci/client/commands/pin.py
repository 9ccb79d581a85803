"""`build-client pin`: keep a build, its log and its results until `unpin`."""

from __future__ import annotations

from ci.client import as_json, report
from ci.client.exits import Exit
from ci.client.session import Session


def run(session: Session, verb: str = "pin", undo: str = "unpin") -> int:
    out = session.screen.out
    as_json.check(session.arguments.json)
    build = session.chooser.choose(session.arguments.build)
    now = session.api.change(build.number, verb).build or build
    if session.arguments.json is not None or not out.tty:
        report.show(session, now)
        return Exit.OK
    look = session.look()
    kept = "is kept, with its results" if now.pinned else "may be removed with time"
    out.line(f"{look.mark(now.state)} {verb}ned #{build.number}: it {kept}")
    out.line(f"  undo: {session.words.command(undo, str(build.number))}")
    return Exit.OK
