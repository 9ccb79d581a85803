"""`build-client address`: which server is asked, and where that is written."""

from __future__ import annotations

from ci.client.as_json import dump
from ci.client.exits import Exit
from ci.client.session import Session


def run(session: Session) -> int:
    out, address = session.screen.out, session.address
    if session.arguments.json:
        entry = {"server": address.url, "source": address.source}
        out.line(dump(entry, pretty=out.tty))
    elif out.tty:
        out.sentence(f"{address.url} (from {address.source})")
    else:
        out.line(f"{address.url}\t{address.source}")
    return Exit.OK
