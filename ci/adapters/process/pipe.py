"""The reading end of a child's output: quick, fair, and not held up by daemons."""

from __future__ import annotations

import asyncio
import fcntl
import os

from ci.errors import HostLimit

CHUNK = 64 * 1024
CAPACITY = 1024 * 1024
# After this many chunks in a row the loop's other tasks get their turn.
TURN = 8
# A child that writes line by line fills the pipe meanwhile: a seventh of the processor
# time at the same throughput. One chunk alone never waits.
PAUSE_SECONDS = 0.002
HURRY_SECONDS = 0.005
# How long after the child's end its helpers (`exec > >(tee log)`) may still write.
LINGER_SECONDS = 0.5


class Pipe:
    """A pipe whose `writer` goes to a child and whose other end is read here.

    Made (HostLimit when too many files are open) and used inside a running event loop;
    `close` it, whatever happens. `released`
    once the end was read because nobody holds the writing end any more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise HostLimit(f"no program can be started: {error.strerror}") from error
        os.set_blocking(self._reader, False)
        self._pause = PAUSE_SECONDS if _enlarge(self.writer) else 0.0
        self._waiter: asyncio.Future[None] | None = None
        self._chunks = 0
        self._short_at = 0.0
        self._hurried = False
        self._linger: asyncio.TimerHandle | None = None
        self._lingered = 0
        self._ended = False
        self.released = False

    async def read(self) -> bytes:
        """The next 1 to 65536 bytes; b"" when no writer is left.

        Also b"" half a second after `child_exited`, when others still hold the writing
        end and nothing (or more than a pipeful) has come since.
        """
        await self._take_turn()
        while not self._ended:
            try:
                data = os.read(self._reader, CHUNK)
            except BlockingIOError:
                if self._expired():
                    break
                await self._readable()
                continue
            if self._expired():
                self._lingered += len(data)
            self.released = not data
            if not data or self._lingered > CAPACITY:
                break
            self._note(len(data))
            return data
        self._ended = True
        return b""

    def child_exited(self) -> None:
        """From now on whoever holds the writing end is not the child."""
        self._linger = self._loop.call_later(LINGER_SECONDS, self._stir)

    def close_writer(self) -> None:
        """Only the child writes from now on."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.close_writer()
        os.close(self._reader)
        if self._linger is not None:
            self._linger.cancel()

    def _expired(self) -> bool:
        return self._linger is not None and self._loop.time() >= self._linger.when()

    async def _take_turn(self) -> None:
        self._chunks += 1
        if self._hurried:
            await asyncio.sleep(self._pause)
        elif self._chunks % TURN == 0:
            await asyncio.sleep(0)

    def _note(self, length: int) -> None:
        now = self._loop.time()
        short = length < CHUNK
        self._hurried = short and now - self._short_at < HURRY_SECONDS
        if short:
            self._short_at = now

    async def _readable(self) -> None:
        self._waiter = self._loop.create_future()
        self._loop.add_reader(self._reader, self._stir)
        try:
            await self._waiter
        finally:
            self._loop.remove_reader(self._reader)
            self._waiter = None

    def _stir(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _enlarge(pipe: int) -> bool:
    """Make room for a burst; False where the user's share of pipe memory is used up."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, CAPACITY)
    except PermissionError:
        return False
    return True
