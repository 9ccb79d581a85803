"""The two ways to a Nix daemon: its Unix socket, or `nix-daemon --stdio` as a child."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ci.errors import DaemonDown

READ_SIZE = 256 * 1024
LAST_WORDS = 4096
"""Bytes kept of what a child daemon says on standard error."""

CLOSING = 2.0
TERMINATING = 10.0
"""Seconds a child daemon has to end by itself, then after SIGTERM."""

# Looked up once, as the look-up blocks. Without it a child still ends with us: by the
# end of its input.
_SETPRIV = shutil.which("setpriv")


@dataclass(frozen=True)
class Link:
    """Both directions of one connection; `name` says what is at the other end.

    `epitaph` tells, after the end of its stream, what is known of why it ended.
    """

    name: str
    reader: asyncio.StreamReader
    outgoing: asyncio.WriteTransport
    epitaph: Callable[[], Awaitable[str]]


@asynccontextmanager
async def through_socket(path: Path) -> AsyncIterator[Link]:
    """A connection to a running daemon. Raises DaemonDown when there is none."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=READ_SIZE)
    except OSError as error:
        raise DaemonDown(
            f"cannot reach the Nix daemon at {path}: {error.strerror or error}; "
            "is nix-daemon running, and may this user connect to it?"
        ) from error
    try:
        yield Link(f"the Nix daemon at {path}", reader, writer.transport, _unexplained)
    finally:
        # Nothing unsent is worth waiting for: closing is what cancels the builds.
        writer.transport.abort()


async def _unexplained() -> str:
    return "it may have been restarted or killed; its own log tells"


@asynccontextmanager
async def through_child(daemon: str, env: Mapping[str, str]) -> AsyncIterator[Link]:
    """A `nix-daemon --stdio` of our own, gone and reaped on exit.

    Raises DaemonDown when it cannot be started.
    """
    last_words = _LastWords()
    with ExitStack() as ours, ExitStack() as theirs:
        stdin, outgoing = await _request_pipe(ours, theirs)
        stdout, reader = await _reply_pipe(ours, theirs)
        stderr = await _reading_pipe(ours, theirs, last_words)
        process = await _start(daemon, env, stdin, stdout, stderr)
        theirs.close()

        async def epitaph() -> str:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await process.wait()
            return f"{_ending(process)}; it said: {str(last_words) or 'nothing'}"

        try:
            yield Link(f"{daemon} --stdio", reader, outgoing, epitaph)
        finally:
            # Both ends, since it may be waiting to write as well as to read.
            ours.close()
            await _insist(_end(process))


class _LastWords(asyncio.Protocol):
    """Keeps the end of what a pipe delivers."""

    def __init__(self) -> None:
        self._kept = b""

    def data_received(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-LAST_WORDS:]

    def __str__(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()


async def _start(
    daemon: str, env: Mapping[str, str], stdin: int, stdout: int, stderr: int
) -> Process:
    # TERM, not KILL: a daemon killed outright leaves its builders, whose sessions are
    # their own, running.
    prefix = [_SETPRIV, "--pdeathsig", "TERM", "--"] if _SETPRIV else []
    try:
        return await asyncio.create_subprocess_exec(
            *prefix,
            daemon,
            "--stdio",
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,
        )
    except OSError as error:
        raise DaemonDown(f"cannot start {daemon}: {error.strerror}") from error


async def _request_pipe(
    ours: ExitStack, theirs: ExitStack
) -> tuple[int, asyncio.WriteTransport]:
    read, write = os.pipe()
    theirs.callback(os.close, read)
    transport, _ = await asyncio.get_running_loop().connect_write_pipe(
        asyncio.Protocol, os.fdopen(write, "wb", 0)
    )

    def hang_up() -> None:
        # A second abort, after the child has closed its end, is an error to asyncio.
        if not transport.is_closing():
            transport.abort()

    ours.callback(hang_up)
    return read, transport


async def _reply_pipe(
    ours: ExitStack, theirs: ExitStack
) -> tuple[int, asyncio.StreamReader]:
    reader = asyncio.StreamReader(limit=READ_SIZE)
    write = await _reading_pipe(ours, theirs, asyncio.StreamReaderProtocol(reader))
    return write, reader


async def _reading_pipe(
    ours: ExitStack, theirs: ExitStack, protocol: asyncio.Protocol
) -> int:
    read, write = os.pipe()
    theirs.callback(os.close, write)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: protocol, os.fdopen(read, "rb", 0)
    )
    ours.callback(transport.close)
    return write


async def _end(process: Process) -> None:
    """Let it end by the end of its input, then by SIGTERM, then by SIGKILL; reap it."""
    for patience, then in ((CLOSING, signal.SIGTERM), (TERMINATING, signal.SIGKILL)):
        try:
            async with asyncio.timeout(patience):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, then)
                # One that was stopped would not notice.
                os.killpg(process.pid, signal.SIGCONT)
    await process.wait()


async def _insist(work: Coroutine[None, None, None]) -> None:
    """Finish `work` even when this task is cancelled meanwhile; be cancelled after."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        raise cancelled
    task.result()


def _ending(process: Process) -> str:
    code = process.returncode
    if code is None:
        return "it closed its output but runs on"
    return f"killed by signal {-code}" if code < 0 else f"it ended with code {code}"
