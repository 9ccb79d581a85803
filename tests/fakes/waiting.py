"""Waiting for something outside this process that cannot ring a bell.

The one place in the tests that sleeps. Whatever can be awaited (an event, a process,
a response) must be awaited instead; this is for files, sockets and other processes.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

INTERVAL = 0.01
# Seconds. Only what never comes takes so long, however busy the machine and its disk are.
PATIENCE = 60.0


@overload
def wait_until(
    condition: Callable[[], Awaitable[T]], timeout: float = ..., *, what: str = ...
) -> Coroutine[Any, Any, T]: ...
@overload
def wait_until(
    condition: Callable[[], T], timeout: float = ..., *, what: str = ...
) -> Coroutine[Any, Any, T]: ...
async def wait_until(
    condition: Callable[[], Any],
    timeout: float = PATIENCE,  # noqa: ASYNC109 - the deadline is part of the sentence
    *,
    what: str = "the condition",
) -> Any:
    """Return the first truthy answer of `condition`, which may be a coroutine function.

    Raises AssertionError naming `what` and the last answer after `timeout` seconds, so
    that a test that waits in vain fails rather than errs. The answer is asked for once
    more after the deadline: a slow machine is not a failure.
    """
    deadline = time.monotonic() + timeout
    while True:
        expired = time.monotonic() >= deadline
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if expired:
            raise AssertionError(f"{what} not within {timeout:g} s; last: {value!r}")
        await asyncio.sleep(INTERVAL)


def wait_until_sync(
    condition: Callable[[], T],
    timeout: float = PATIENCE,
    *,
    what: str = "the condition",
) -> T:
    """The same for fixtures and threads without an event loop."""
    deadline = time.monotonic() + timeout
    while True:
        expired = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if expired:
            raise AssertionError(f"{what} not within {timeout:g} s; last: {value!r}")
        time.sleep(INTERVAL)
