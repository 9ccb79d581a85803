"""What people ask of a build that exists: to end it, or to try it again.

Each function is one transaction that decides, acts on the rows and answers the request.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from ci.adapters.host import now_ms
from ci.history import builds, requests, states
from ci.history.requests import Request
from ci.models import Build, BuildState


def cancel(
    connection: sqlite3.Connection,
    request: Request,
    reason: str,
    context: str,
) -> None:
    build = builds.get(connection, request.build or 0)
    if build is not None and build.state is BuildState.QUEUED:
        states.end_queued(
            connection,
            build.number,
            BuildState.CANCELLED,
            reason=reason,
            at=now_ms(),
            context=context,
        )
    _answer(connection, request, build, refused=build is None or build.state.final)


def retry(connection: sqlite3.Connection, request: Request, context: str) -> None:
    build = builds.get(connection, request.build or 0)
    refused = build is None or not build.state.final
    if build is not None and not refused:
        states.reopen(
            connection,
            build.number,
            at=now_ms(),
            context=context,
            targets=build.requested_targets,
        )
    _answer(connection, request, build, refused=refused)


def _answer(
    connection: sqlite3.Connection,
    request: Request,
    build: Build | None,
    *,
    refused: bool,
) -> None:
    answer: dict[str, Any]
    if build is None:
        answer = {
            "error": f"there is no build #{request.build}",
            "status_code": 404,
            "detail": {},
        }
    elif refused:
        answer = {
            "error": f"build #{build.number} is {build.state}: "
            f"it cannot be {'cancelled' if build.state.final else 'retried'}",
            "status_code": 409,
            "detail": {"state": build.state},
        }
    else:
        answer = {"build": build.number}
    requests.answer(connection, request.id, at=now_ms(), answer=answer)
