"""`bt`: build a commit now, or join the build that it has already."""

from __future__ import annotations

import time

from ci.client import as_json, report
from ci.client.api import Asked
from ci.client.builds import Build, is_sha
from ci.client.exits import Exit
from ci.client.session import Session

ASK_AGAIN = 60.0
PAUSE = 1.0


def run(session: Session) -> int:
    arguments = session.arguments
    as_json.check(arguments.json)
    body = _body(session)
    asked = session.api.trigger(body)
    waiting = arguments.wait or arguments.follow
    if asked.build is None and waiting:
        asked = _ask_again(session, asked, body)
    if asked.build is None:
        return _recorded(session, asked, waiting=waiting)
    if waiting or not session.screen.out.tty:
        session.screen.hint(asked.message)
    if arguments.follow:
        return report.follow(session, asked.build)
    if arguments.wait:
        return report.wait(session, asked.build)
    _show(session, asked.build, new=asked.new)
    return Exit.OK


def _body(session: Session) -> dict[str, object]:
    """The keys of POST /build/trigger; whatever is left out is the server's choice."""
    arguments = session.arguments
    body: dict[str, object] = {}
    repo = arguments.repo or session.chooser.checkout_repository()
    if repo:
        body["repo"] = repo
    if arguments.ref:
        sha = is_sha(arguments.ref)
        body["rev" if sha else "ref"] = arguments.ref.lower() if sha else arguments.ref
    if arguments.target:
        body["targets"] = arguments.target
    if arguments.force:
        body["force"] = True
    return body


def _ask_again(session: Session, asked: Asked, body: dict[str, object]) -> Asked:
    """Ask until the commit has been looked up: who asks for the same joins the build.

    Without `force`, which would build it once more.
    """
    session.screen.hint(f"{asked.message}; waiting for it")
    again = {key: value for key, value in body.items() if key != "force"}
    deadline = time.monotonic() + ASK_AGAIN
    while asked.build is None and time.monotonic() < deadline:
        time.sleep(PAUSE)
        asked = session.api.trigger(again)
    return asked


def _recorded(session: Session, asked: Asked, *, waiting: bool) -> Exit:
    """The commit has not been looked up yet: it will be, and has no number until then."""
    if session.arguments.json is not None:
        report.show_json(session, None, pretty=False)
    history = session.words.command("history")
    session.screen.hint(f"{asked.message}; `{history}` will show its number")
    return Exit.UNFINISHED if waiting else Exit.OK


def _show(session: Session, build: Build, *, new: bool) -> None:
    out = session.screen.out
    if session.arguments.json is not None or not out.tty:
        report.show(session, build)
    elif new:
        report.show_queued(session, build)
    else:
        from ci.client.render import known

        out.lines(known(build, session.look(), session.arguments.ref))
