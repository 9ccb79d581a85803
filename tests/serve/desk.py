"""A stand-in for the loops that answer requests: it says what it was told to say."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ci.history import requests
from ci.history.requests import Request
from ci.models import RequestKind
from tests.serve.conftest import Served

Reply = Callable[[Request], Mapping[str, Any]]


@asynccontextmanager
async def desk(served: Served, reply: Reply) -> AsyncIterator[list[Request]]:
    """Answer every request with `reply` until the context ends; yields those seen."""
    seen: list[Request] = []

    async def work() -> None:
        while True:
            count = served.wake.count
            if await served.database.write(_answer_all, reply, seen):
                served.wake()
            await served.wake.wait(count, 60)

    task = asyncio.create_task(work())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _answer_all(
    connection: sqlite3.Connection, reply: Reply, seen: list[Request]
) -> int:
    """How many there were; whoever sees an answer finds its request among the `seen`."""
    found = [
        request
        for kind in RequestKind
        for request in requests.unanswered(connection, kind)
    ]
    for request in found:
        requests.answer(connection, request.id, at=1, answer=reply(request))
    seen += found
    return len(found)
