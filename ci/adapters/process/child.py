"""One child process from its start to its reaping; `process.py` is what others use."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from ci.adapters.process.pipe import Pipe
from ci.adapters.process.table import DEATH_SECONDS, end, family
from ci.errors import HostFault, HostLimit

# Tells the children of one start from those of another, whatever group they moved to.
SPAWN = "BUILD_SERVER_SPAWN"
EXHAUSTED = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

_SETPRIV = shutil.which("setpriv")
_DIE_WITH_US = (_SETPRIV, "--pdeathsig", "KILL", "--") if _SETPRIV else ()


class Process:
    """A running child; made by `spawn`, which also ends it."""

    def __init__(
        self, child: subprocess.Popen[bytes], pipes: Sequence[Pipe], mark: str
    ) -> None:
        self.pid = child.pid
        self._child = child
        self._pipes = pipes
        self._family = partial(family, child.pid, f"{SPAWN}={mark}".encode())
        self._handle = os.pidfd_open(child.pid)
        self._loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._handle, self._on_exit)

    async def read(self) -> bytes:
        """The next 1 to 65536 bytes of output, b"" at its end; see Pipe.read."""
        return await self._pipes[0].read()

    async def wait(self) -> int:
        """The exit code (< 0: the signal that killed it); output need not be read."""
        return await asyncio.shield(self._code)

    async def stop(self, grace: float) -> int:
        """TERM to the group, KILL after `grace` seconds; returns the exit code.

        Raises HostFault when the kernel does not let go of the process.
        """
        self._signal(signal.SIGTERM)
        await asyncio.wait([self._code], timeout=grace)
        self.kill()
        await asyncio.wait([self._code], timeout=DEATH_SECONDS)
        if not self._code.done():
            raise HostFault(
                f"process {self.pid} does not die: the kernel holds it, probably in a "
                "read from a broken disk or network file system; restart this host"
            )
        return self._code.result()

    def kill(self) -> None:
        """KILL to the group, now."""
        self._signal(signal.SIGKILL)

    async def end(self, grace: float, *, search: bool) -> None:
        """Stop it if it runs, and end what it left behind.

        Without `search`, one that ended by itself and left nobody writing is trusted.
        """
        trusted = self._code.done() and all(pipe.released for pipe in self._pipes)
        if self._code.done():
            self.kill()
        else:
            await self.stop(grace)
        if search or not trusted:
            await asyncio.to_thread(end, self._family)

    def release(self) -> None:
        """Reap the child: from here on its process id may be anybody's."""
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        if self._code.done():
            self._child.wait()
        else:
            self.kill()

    def _signal(self, number: int) -> None:
        # Not reaped before `release`, the child keeps its group's number from reuse.
        # Refused only where the whole group runs as another user (a setuid program).
        with suppress(PermissionError):
            os.killpg(self.pid, number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._handle)
        how = os.waitid(os.P_PIDFD, self._handle, os.WEXITED | os.WNOWAIT)
        if how is not None:
            exited = how.si_code == os.CLD_EXITED
            self._code.set_result(how.si_status if exited else -how.si_status)
        for pipe in self._pipes:
            pipe.child_exited()


@asynccontextmanager
async def started(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    streams: tuple[int, int, int],
    pipes: Sequence[Pipe],
    *,
    grace: float,
    search: bool,
) -> AsyncIterator[Process]:
    """A child with `streams` as 0, 1, 2, ended and reaped when the block ends.

    `pipes` are those of its outputs that are read here; `Process.read` reads the first.
    """
    process = _start(argv, env, cwd, streams, pipes)
    try:
        for pipe in pipes:
            pipe.close_writer()
        yield process
    finally:
        try:
            await _to_its_end(process.end(grace, search=search), process.kill)
        finally:
            process.release()


def _start(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    streams: tuple[int, int, int],
    pipes: Sequence[Pipe],
) -> Process:
    mark = secrets.token_hex(8)
    _check_program(argv[0], env, cwd)
    try:
        child = subprocess.Popen(
            [*_DIE_WITH_US, *argv],
            env={**env, SPAWN: mark},
            cwd=cwd,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            start_new_session=True,
        )
        return _watched(child, pipes, mark)
    except OSError as error:
        kind = HostLimit if error.errno in EXHAUSTED else HostFault
        raise kind(f"`{argv[0]}` cannot be started: {error}") from error


def _watched(
    child: subprocess.Popen[bytes], pipes: Sequence[Pipe], mark: str
) -> Process:
    try:
        return Process(child, pipes, mark)
    except OSError:
        child.kill()
        child.wait()
        raise


def _check_program(program: str, env: Mapping[str, str], cwd: Path | None) -> None:
    """`setpriv` would start, and then fail with an exit code of its own."""
    path = str(cwd / program) if cwd is not None and "/" in program else program
    if shutil.which(path, path=env.get("PATH", os.defpath)) is None:
        raise HostFault(
            f"the program `{program}` was not found: install it, or put its directory "
            f"on the PATH of the service (now {env.get('PATH', os.defpath)})"
        )


async def _to_its_end(
    work: Coroutine[None, None, None], hurry: Callable[[], None]
) -> None:
    """Wait for `work` even when cancelled; each cancellation calls `hurry`."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
            hurry()
    if cancelled:
        raise asyncio.CancelledError
