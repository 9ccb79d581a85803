"""`build-client history`: builds, newest first."""

from __future__ import annotations

from ci.client.api import MAX_PAGE
from ci.client.as_json import dump_all
from ci.client.builds import Build
from ci.client.exits import Exit
from ci.client.session import Session
from ci.client.table import records, table

LIMIT = 20


def run(session: Session) -> int:
    arguments, out = session.arguments, session.screen.out
    limit = arguments.limit
    if limit is None and arguments.since is None:
        limit = LIMIT
    found = _collect(session, limit)
    if arguments.json is not None:
        out.line(dump_all(found, arguments.json, pretty=out.tty))
    elif not found:
        session.screen.hint("no build is like that")
    elif out.tty:
        out.lines(table(found, session.look()))
    else:
        out.lines(records(found))
    return Exit.OK


def _collect(session: Session, limit: int | None) -> list[Build]:
    """As many as wanted, page by page; `--since` ends it at the first older build."""
    arguments = session.arguments
    found: list[Build] = []
    before: int | None = None
    while limit is None or len(found) < limit:
        wanted = MAX_PAGE if limit is None else min(MAX_PAGE, limit - len(found))
        page, before = session.api.builds(
            repo=arguments.repo,
            branch=arguments.branch,
            state=arguments.status,
            before=before,
            limit=wanted,
        )
        new = [build for build in page if _is_since(build, arguments.since)]
        found += new
        if before is None or len(new) < len(page):
            break
    return found


def _is_since(build: Build, moment: float | None) -> bool:
    return moment is None or build.queued_at is None or build.queued_at >= moment
