"""Running one program: its own group, nothing inherited, a bounded end, always reaped.

A child starts in a session of its own with the environment it is given (and one mark,
BUILD_SERVER_SPAWN), with no open files but its three streams, and dies with this server
(`setpriv --pdeathsig`, where that program exists). On the way out its whole family is
ended, daemons that left the group included. No shell is involved.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ci.adapters.process.child import Process, started
from ci.adapters.process.pipe import Pipe
from ci.adapters.process.table import end, strangers
from ci.errors import HostLimit

__all__ = [
    "Finished",
    "Process",
    "TooMuchOutput",
    "kill_leftovers",
    "mark",
    "run",
    "spawn",
]

INSTANCE = "BUILD_SERVER_INSTANCE"
GRACE_SECONDS = 10.0
RUN_GRACE_SECONDS = 2.0
STDOUT_LIMIT = 64 * 1024 * 1024
STDERR_KEPT = 1024 * 1024


class TooMuchOutput(HostLimit):
    """A program wrote a longer answer than was allowed."""


@dataclass(frozen=True)
class Finished:
    """How a program ended: `code` < 0 is the signal that killed it.

    `stderr` is its last MiB.
    """

    code: int
    stdout: bytes
    stderr: bytes


@asynccontextmanager
async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    grace: float = GRACE_SECONDS,
) -> AsyncIterator[Process]:
    """Run `argv` for as long as the block lasts; `grace` is seconds from TERM to KILL.

    `read()` gives standard output and error merged; with a descriptor as `stdout` it
    gives the errors alone. Raises HostFault when the program cannot be started
    (HostLimit: for lack of memory, processes or files).
    """
    with closing(Pipe()) as pipe:
        output = pipe.writer if stdout == subprocess.PIPE else stdout
        streams = (stdin, output, pipe.writer)
        async with started(
            argv, env, cwd, streams, [pipe], grace=grace, search=True
        ) as process:
            yield process


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    input: bytes = b"",
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    timeout: float,  # noqa: ASYNC109 - its message names the program
    limit: int = STDOUT_LIMIT,
    stop: asyncio.Event | None = None,
    say: Callable[[bytes], None] | None = None,
) -> Finished:
    """Run `argv` to its end; `say` gets the chunks of standard error as they come.

    It reads `input`, or the descriptor `stdin` when that is empty; with a descriptor as
    `stdout` the result has none. Setting `stop` ends the program: `code` tells how.
    Raises TimeoutError after `timeout` seconds, TooMuchOutput for more than `limit` bytes
    of standard output, and what `spawn` raises. A cancellation ends the program first.
    """
    name = Path(argv[0]).name
    try:
        async with asyncio.timeout(timeout), AsyncExitStack() as stack:
            errors = stack.enter_context(closing(Pipe()))
            pipes = [errors]
            if stdout == subprocess.PIPE:
                pipes.append(stack.enter_context(closing(Pipe())))
                stdout = pipes[1].writer
            if input:
                stdin = stack.enter_context(_memory_file(input))
            streams = (stdin, stdout, errors.writer)
            child = started(
                argv, env, cwd, streams, pipes, grace=RUN_GRACE_SECONDS, search=False
            )
            process = await stack.enter_async_context(child)
            stack.enter_context(_stopped_by(stop, process))
            results = [_bounded(pipe, limit, name) for pipe in pipes[1:]]
            said, *output = await _all([_tail(errors, say), *results])
            return Finished(await process.wait(), b"".join(output), said)
    except TimeoutError:
        raise TimeoutError(
            f"`{name}` was stopped: it took longer than {timeout:g} s"
        ) from None


async def _all(work: Sequence[Coroutine[None, None, bytes]]) -> list[bytes]:
    """All results; the first failure ends the others."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@contextmanager
def _stopped_by(stop: asyncio.Event | None, process: Process) -> Iterator[None]:
    if stop is None:
        yield
        return
    watcher = asyncio.create_task(_stop_when(stop, process))
    try:
        yield
    finally:
        watcher.cancel()


async def _stop_when(stop: asyncio.Event, process: Process) -> None:
    await stop.wait()
    await process.stop(RUN_GRACE_SECONDS)


async def _bounded(pipe: Pipe, limit: int, program: str) -> bytes:
    collected = bytearray()
    while chunk := await pipe.read():
        collected += chunk
        if len(collected) > limit:
            raise TooMuchOutput(
                f"`{program}` wrote more than {limit} bytes where an answer "
                "of at most that size was expected"
            )
    return bytes(collected)


async def _tail(pipe: Pipe, say: Callable[[bytes], None] | None) -> bytes:
    collected = bytearray()
    while chunk := await pipe.read():
        if say is not None:
            say(chunk)
        collected += chunk
        if len(collected) > 2 * STDERR_KEPT:
            del collected[:-STDERR_KEPT]
    return bytes(collected[-STDERR_KEPT:])


@contextmanager
def _memory_file(content: bytes) -> Iterator[int]:
    """A descriptor to read `content` from: no pipe that a slow reader could stop up."""
    descriptor = os.memfd_create("input", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def mark(env: Mapping[str, str], instance: str) -> dict[str, str]:
    """`env` with the name of this server, by which a later one finds what we left."""
    return {**env, INSTANCE: instance}


async def kill_leftovers(instance: str) -> int:
    """KILL the process groups that a dead server of this name left behind.

    Returns how many groups there were; what this process started is spared.
    """
    find = partial(strangers, f"{INSTANCE}={instance}".encode())
    met = await asyncio.to_thread(end, find)
    return len({row.group for row in met})
