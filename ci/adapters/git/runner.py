"""Runs git on one repository, and notes when it finds damage or ends badly."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from ci.adapters.git.command import (
    DAMAGE,
    SAFE,
    credential,
    environment,
    fault,
    network,
    protocol,
)
from ci.adapters.process import Finished, run
from ci.errors import CommitVanished, HostFault, NetworkDown

log = logging.getLogger(__name__)

Token = Callable[[], Awaitable[str | None]]

LOCAL_SECONDS = 600.0
LOCKED = b".lock': File exists"


class GitRunner:
    """Git, bound to the bare repository `path` and its remote `url`.

    `sound` turns False when git complains about the repository's own files. `clean` is
    False at first, after a writing git that did not end by itself (it may have left
    locks behind) and after one that met a lock.
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

    async def read(self, *args: str, fine: tuple[int, ...] = (0,)) -> Finished:
        """Run a git that changes nothing; raises unless its exit code is in `fine`."""
        return self._judged(await self._local(args), fine)

    async def write(self, *args: str) -> None:
        """Run a git that changes the repository."""
        self.clean = False
        done = await self._local(args)
        self.clean = done.code >= 0 and LOCKED not in done.stderr
        self._judged(done)

    async def ask(self, *args: str, seconds: float) -> Finished:
        """Run a git that talks to the remote, with the credential if there is one."""
        return self._judged(await self._remote(args, seconds))

    async def fetch(self, *args: str, seconds: float) -> None:
        """The same for one that changes the repository too."""
        self.clean = False
        done = await self._remote(args, seconds)
        self.clean = done.code >= 0 and LOCKED not in done.stderr
        self._judged(done)

    def error(self, stderr: bytes) -> Exception:
        """What a failed git means, given what it said; damage is noted."""
        said = stderr.decode(errors="replace")
        error = fault(said, self.url)
        damaged = self._look(said)
        # An unsound mirror may lack what the remote still has.
        if damaged or (not self.sound and isinstance(error, CommitVanished)):
            return HostFault(
                f"the mirror {self.path} is damaged and will be fetched anew: {error}"
            )
        return error

    async def _local(self, args: tuple[str, ...]) -> Finished:
        try:
            return await run(self.argv(*args), env=self.env, timeout=LOCAL_SECONDS)
        except TimeoutError as error:
            raise HostFault(f"{error}; is the disk of {self.path} slow?") from error

    async def _remote(self, args: tuple[str, ...], seconds: float) -> Finished:
        token = await self._token() if self._token is not None else None
        env = {**self.env, **(credential(self.url, token) if token else {})}
        argv = self.argv(*self._network, *args)
        try:
            return await run(argv, env=env, timeout=seconds)
        except TimeoutError as error:
            raise NetworkDown(f"{self.url} is too slow: {error}") from error

    def _judged(self, done: Finished, fine: tuple[int, ...] = (0,)) -> Finished:
        if done.code in fine:
            self._look(done.stderr.decode(errors="replace"))
            return done
        if done.code < 0:
            raise HostFault(f"git was killed by signal {-done.code}; was memory short?")
        raise self.error(done.stderr)

    def _look(self, said: str) -> bool:
        complaint = DAMAGE.search(said)
        if complaint is not None:
            log.warning("%s: %s", self.path, complaint[0])
            self.sound = False
        return complaint is not None
