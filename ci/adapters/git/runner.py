"""Runs git on one repository, and notes when it finds damage or ends badly."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from ci.adapters.git.command import (
    DAMAGE,
    FSCK,
    NO_GIT,
    SAFE,
    credential,
    doubtful,
    environment,
    fault,
    network,
    protocol,
    sentence,
)
from ci.adapters.host import disk
from ci.adapters.process import Finished, run
from ci.errors import CommitVanished, HostFault, NetworkDown

log = logging.getLogger(__name__)

Token = Callable[[], Awaitable[str | None]]

LOCAL_SECONDS = 600.0
# Bytes that one git may take: to list refs, and to resolve the deltas of a large pack.
LIST_MEMORY = 1024**3
FETCH_MEMORY = 8 * 1024**3
LEAST_ROOM = 64 * 1024**2
LOCKED = b".lock': File exists"
# Signals of a program that trips over what it reads.
CRASHES = (signal.SIGILL, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGSEGV)


_PRLIMIT = shutil.which("prlimit")


def limited(argv: Sequence[str], memory: int, room: int | None) -> list[str]:
    """The same program with limits (bytes): of its memory, and of each file it writes.

    Without util-linux's `prlimit` only time limits what a remote can make it do.
    """
    if _PRLIMIT is None:
        return list(argv)
    size = [] if room is None else [f"--fsize={room}"]
    return [_PRLIMIT, f"--data={memory}", *size, "--", *argv]


class GitRunner:
    """Git, bound to the bare repository `path` and its remote `url`.

    `sound` turns False when git complains about the repository's own files. `clean` is
    False at first, after a writing git that did not end well (it may have left locks
    and half a pack behind) and after one that met a lock.
    """

    def __init__(
        self,
        path: Path,
        url: str,
        token: Token | None,
        allow: str | None,
        environ: Mapping[str, str],
        stall: int,
    ) -> None:
        self.path = path
        self.url = url
        self.env = environment(environ, allow or protocol(url))
        self.sound = True
        self.clean = False
        self._token = token
        self._network = network(stall)

    def argv(self, *args: str) -> list[str]:
        """The repository is named, never looked for: a parent could be one too."""
        return ["git", f"--git-dir={self.path}", *SAFE, *args]

    async def read(
        self, *args: str, fine: tuple[int, ...] = (0,), input: bytes = b""
    ) -> Finished:
        """Run a git that changes nothing; raises unless its exit code is in `fine`."""
        return await self._judged(await self._local(args, input=input), fine)

    async def reads_whole(self, *args: str) -> bool:
        """Run a git whose output is of no interest, on what must be here and whole.

        When it fails the repository is damaged, whatever git calls it.
        """
        done = await self._local(args, stdout=subprocess.DEVNULL)
        if done.code > 0:
            log.warning("%s: %s", self.path, done.stderr.decode(errors="replace"))
            self.sound = False
        return done.code <= 0

    async def write(self, *args: str, input: bytes = b"") -> Finished:
        """Run a git that changes the repository."""
        self.clean = False
        done = await self._local(args, input=input)
        self.clean = done.code == 0 and LOCKED not in done.stderr
        return await self._judged(done)

    async def ask(self, *args: str, seconds: float) -> Finished:
        """Run a git that talks to the remote, with the credential if there is one."""
        return await self._judged(await self._remote(args, seconds, memory=LIST_MEMORY))

    async def fetch(self, *args: str, seconds: float) -> None:
        """The same for one that changes the repository too.

        It may take half of the room that is left: a remote whose pack has no end must
        not fill the disk on which every other repository is built.
        """
        self.clean = False
        free = (await asyncio.to_thread(disk, self.path)).free
        room = max(LEAST_ROOM, free // 2)
        done = await self._remote(args, seconds, memory=FETCH_MEMORY, room=room)
        self.clean = done.code == 0 and LOCKED not in done.stderr
        await self._judged(done)

    async def error(self, stderr: bytes) -> Exception:
        """What a failed git means, given what it said; damage is noted."""
        said = stderr.decode(errors="replace")
        error = fault(said, self.url)
        damaged = not NO_GIT.search(said) and self._look(said)
        damaged = damaged or (doubtful(said) and not await self._healthy())
        # An unsound mirror may lack what the remote still has.
        if damaged or (not self.sound and isinstance(error, CommitVanished)):
            return self._damaged(str(error))
        return error

    def _damaged(self, why: str) -> HostFault:
        return HostFault(
            f"the mirror {self.path} is damaged and will be fetched anew: {why}"
        )

    async def _healthy(self) -> bool:
        """Read the whole repository; damage is noted."""
        try:
            done = await run(self.argv(*FSCK), env=self.env, timeout=LOCAL_SECONDS)
        except TimeoutError:
            return True  # nobody can tell
        if done.code > 0 or -done.code in CRASHES:
            log.warning(
                "%s: %s", self.path, sentence(done.stderr.decode("utf-8", "replace"))
            )
            self.sound = False
        return self.sound

    async def _local(
        self,
        args: tuple[str, ...],
        *,
        input: bytes = b"",
        stdout: int = subprocess.PIPE,
    ) -> Finished:
        argv, seconds = self.argv(*args), LOCAL_SECONDS
        try:
            return await run(
                argv, env=self.env, timeout=seconds, input=input, stdout=stdout
            )
        except TimeoutError as error:
            raise HostFault(f"{error}; is the disk of {self.path} slow?") from error

    async def _remote(
        self,
        args: tuple[str, ...],
        seconds: float,
        *,
        memory: int,
        room: int | None = None,
    ) -> Finished:
        token = await self._token() if self._token is not None else None
        env = {**self.env, **(credential(self.url, token) if token else {})}
        argv = limited(self.argv(*self._network, *args), memory, room)
        try:
            return await run(argv, env=env, timeout=seconds)
        except TimeoutError as error:
            raise NetworkDown(f"{self.url} is too slow: {error}") from error

    async def _judged(self, done: Finished, fine: tuple[int, ...] = (0,)) -> Finished:
        if done.code in fine:
            self._look(done.stderr.decode(errors="replace"))
            return done
        if done.code > 0:
            raise await self.error(done.stderr)
        killed = f"git was killed by signal {-done.code}"
        if -done.code in CRASHES and not await self._healthy():
            raise self._damaged(killed)
        raise HostFault(f"{killed}; was memory short?")

    def _look(self, said: str) -> bool:
        complaint = DAMAGE.search(said)
        if complaint is not None:
            log.warning("%s: %s", self.path, complaint[0])
            self.sound = False
        return complaint is not None
