"""`build-client completion`: the lines that teach a shell to complete the commands."""

from __future__ import annotations

from ci.client.exits import Exit
from ci.client.session import Session
from ci.client.shells import SCRIPTS


def run(session: Session) -> int:
    out = session.screen.out
    out.write(SCRIPTS[session.arguments.shell].encode())
    out.flush()
    return Exit.OK
