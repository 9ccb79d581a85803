"""`build-client unpin`: a build may go again when its time has come."""

from __future__ import annotations

from ci.client.commands import pin
from ci.client.session import Session


def run(session: Session) -> int:
    return pin.run(session, verb="unpin", undo="pin")
