"""`build-client __complete WORD…`: for the shells; a candidate and a tab on each line.

Whatever goes wrong, it is silent: its reader is in the middle of typing.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

from ci.client.as_json import AROUND, FAILED, FIELDS
from ci.client.builds import Build, Malformed
from ci.client.complete import Candidate, candidates
from ci.client.exits import Exit, Failure
from ci.client.look import MARKS
from ci.client.session import Session

PATIENCE = 1.0
RECENT = 20


def run(session: Session) -> int:
    # Not even a name server that is silent may hold up who types.
    late = threading.Timer(PATIENCE, os._exit, [Exit.OK])
    late.daemon = True
    late.start()
    values = _Values(session)
    found: list[Candidate] = []
    with suppress(Failure, Malformed):
        for candidate in candidates(session.arguments.line, values.of_kind):
            found.append(candidate)
    late.cancel()
    if found:
        session.screen.out.lines(f"{value}\t{about}" for value, about in found)
    return Exit.OK


class _Values:
    """What the server knows: builds, branches, targets, repositories."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._line = session.arguments.line
        self._kinds = {
            "build": self._builds,
            "ref": self._branches,
            "branch": self._branches,
            "target": self._targets,
            "repo": self._repositories,
            "json": self._fields,
        }

    def of_kind(self, kind: str) -> Iterator[Candidate]:
        if kind in self._kinds:
            yield from self._kinds[kind]()

    def _recent(self) -> list[Build]:
        found, _ = self._session.api.builds(
            repo=self._session.arguments.repo, limit=RECENT
        )
        return found

    def _builds(self) -> Iterator[Candidate]:
        found = self._recent()
        for build in found:
            mark = MARKS.get(build.state, "?")
            yield str(build.number), f"{mark} {build.branch} {build.title}"
        yield "last", "the newest build"
        yield from self._branches_of(found)

    def _branches(self) -> Iterator[Candidate]:
        yield from self._branches_of(self._recent())

    def _branches_of(self, builds: list[Build]) -> Iterator[Candidate]:
        """Those that have been built lately, then all that are watched."""
        for build in builds:
            branch = build.own("branch")
            if branch is not None:
                yield branch, f"the newest of this branch: {build.title}"
        for repository in self._session.api.repositories():
            if self._session.arguments.repo in (None, repository.name):
                yield from ((name, repository.name) for name in repository.branches)

    def _targets(self) -> Iterator[Candidate]:
        """Of the build that stands before it; a pattern to build needs none."""
        given = self._line.given if self._line.verb == "logs" else []
        build = self._session.chooser.choose(given[0] if given else None)
        for target in [*build.failing, *build.targets]:
            yield target.own_name, f"{MARKS.get(target.state, '?')} {target.state}"

    def _repositories(self) -> Iterator[Candidate]:
        for repository in self._session.api.repositories():
            yield repository.name, repository.url

    def _fields(self) -> Iterator[Candidate]:
        for name in (*FIELDS, FAILED, *AROUND):
            yield name, ""
