"""One bare mirror per repository, with refs of our own only.

Branch names never become names of refs here and reach git only inside a refspec after
`--`; commits are named by their full ids. Nothing of a commit is run, and nothing is
checked out into the mirror. A damaged mirror is only a cache: it is fetched anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from ci.adapters.git import files
from ci.adapters.git.amend import commit_on, tree_with
from ci.adapters.git.command import FETCH, no_git
from ci.adapters.git.names import FULL_ID, PREFIX, check_id, possible_branch
from ci.adapters.git.runner import LOCAL_SECONDS, GitRunner, Token
from ci.errors import CommitVanished, HostFault
from ci.models import Commit

log = logging.getLogger(__name__)

NAMESPACE = "refs/build-server"
OWN = f"{NAMESPACE}/update"
RECORD = ("-z", "--encoding=UTF-8", "--format=%H%x00%an%x00%B")
# Builds whose commits outlive a `tidy`: git fetches little only from what it has.
KEPT = 20
LIST_SECONDS = 60.0
FETCH_SECONDS = 3600.0
STALL_SECONDS = 30


class Mirror:
    """The mirror of `url` in the directory `path`; one object for each path.

    The directory is made when first needed. `allow` is the protocol that git may speak,
    by default that of the URL; `environ` gives PATH, proxies and certificates. Methods
    raise NetworkDown, DiskFull or HostFault when something of ours fails, CommitVanished
    when a commit or branch does not exist (any more).
    """

    def __init__(
        self,
        path: Path,
        url: str,
        *,
        token: Token | None = None,
        allow: str | None = None,
        environ: Mapping[str, str] = os.environ,
        stall: int = STALL_SECONDS,
    ) -> None:
        self.path = path.absolute()
        self.url = url
        self._git = GitRunner(self.path, url, token, allow, environ, stall)
        self._lock = asyncio.Lock()
        self._ready = False
        self._pins: dict[int, str] = {}

    async def remote_refs(self, branches: Sequence[str]) -> dict[str, str]:
        """Branch name to commit id, as the remote says now; absent ones are left out."""
        wanted = {
            f"refs/heads/{name}": name for name in branches if possible_branch(name)
        }
        if not wanted:
            return {}
        await self._have()
        refs = await self._list(*wanted)
        if not refs:
            await self._check_remote()
        return {wanted[ref]: sha for ref, sha in refs.items() if ref in wanted}

    async def _list(self, *patterns: str) -> dict[str, str]:
        list_refs = ("ls-remote", "--refs", "--", self.url, *patterns)
        done = await self._git.ask(*list_refs, seconds=LIST_SECONDS)
        lines = os.fsdecode(done.stdout).split("\n")
        found = ((ref, sha) for sha, _, ref in (line.partition("\t") for line in lines))
        return {ref: sha for ref, sha in found if ref}

    async def _check_remote(self) -> None:
        """Raise NetworkDown when the remote has no ref at all.

        Any empty page says that nothing is there; only what has something to tell is
        believed when it tells that a commit or branch is gone.
        """
        if not await self._list():
            raise no_git(self.url)

    async def fetch_commit(self, sha: str, build: int) -> None:
        """Have a commit and all before it, and keep it under the build's number.

        One that is here already needs no network.
        """
        check_id(sha)
        async with self._lock:
            await self._fetch(sha, _pin(build))
            self._pins[build] = sha

    async def fetch_branch(self, branch: str) -> str:
        """Have the head of a branch; returns its commit id."""
        if not possible_branch(branch):
            raise CommitVanished(f"`{branch}` cannot be the name of a branch")
        name = hashlib.sha256(os.fsencode(branch)).hexdigest()[:32]
        ref = f"{NAMESPACE}/head/{name}"
        async with self._lock:
            await self._fetch(f"refs/heads/{branch}", ref)
            done = await self._git.read("rev-parse", "--verify", f"{ref}^{{commit}}")
        return done.stdout.decode().strip()

    async def pin(self, sha: str, build: int) -> None:
        """Keep a commit of the mirror under the number of a build."""
        check_id(sha)
        async with self._lock:
            await self._prepare()
            await self._git.write("update-ref", _pin(build), sha)
            self._pins[build] = sha

    async def unpin(self, build: int) -> None:
        """Let go of what a build kept; a number that keeps nothing is fine."""
        async with self._lock:
            await self._prepare()
            await self._git.write("update-ref", "-d", _pin(build))
            self._pins.pop(build, None)

    async def amend(
        self, sha: str, path: str, content: bytes | None, message: str
    ) -> str:
        """Write a commit of our own: `sha` with another file at `path`; returns its id.

        With None there is no such file in it. No remote knows it; it stays until
        `keep_own` lets go of it.
        """
        check_id(sha)
        async with self._lock:
            await self._prepare()
            tree = await tree_with(self._git, sha, path, content)
            made = await commit_on(self._git, sha, tree, message)
            await self._git.write("update-ref", f"{OWN}/{made}", made)
        return made

    async def keep_own(self, shas: Collection[str]) -> None:
        """Let go of all commits of our own but these."""
        async with self._lock:
            await self._prepare()
            asked = ("for-each-ref", "--format=%(refname)", f"{OWN}/")
            done = await self._git.read(*asked)
            for ref in done.stdout.decode().split():
                if ref.rpartition("/")[2] not in shas:
                    await self._git.write("update-ref", "-d", ref)

    def release(self, build: int) -> None:
        """The build has ended: what it kept may go at the next `tidy`."""
        self._pins.pop(build, None)

    async def tidy(self, newest: int = KEPT) -> None:
        """Let go of all but the `newest` builds and those at work; pack what lies about.

        Packing does nothing while there is little to pack.
        """
        async with self._lock:
            await self._prepare()
            done = await self._git.read(
                "for-each-ref", "--format=%(refname)", f"{NAMESPACE}/build/"
            )
            kept = sorted(
                int(ref.rpartition("/")[2]) for ref in done.stdout.decode().split()
            )
            for build in kept[:-newest]:
                if build not in self._pins:
                    await self._git.write("update-ref", "-d", _pin(build))
            options = ("-c", "gc.auto=2000", "-c", "gc.autoDetach=false")
            await self._git.write(*options, "gc", "--auto", "--quiet")

    async def rev_list(self, new: str, old: str | None, limit: int) -> list[Commit]:
        """The commits of `old..new`, oldest first, at most the newest `limit`.

        Where `old` is None or not in the mirror: all that led to `new`.
        """
        check_id(new)
        await self._have()
        # Read from left to right: only `old` may be missing.
        known = old is not None and FULL_ID.fullmatch(old)
        without = ("--ignore-missing", f"^{old}") if known else ()
        options = (*RECORD, "--topo-order", f"--max-count={limit}")
        done = await self._git.read("log", *options, new, *without, "--")
        return _commits(done.stdout)[::-1]

    async def commit(self, sha: str) -> Commit:
        """What a commit of the mirror says about itself; `sha` is its full id."""
        check_id(sha)
        await self._have()
        done = await self._git.read("log", *RECORD, "--max-count=1", sha, "--")
        found = _commits(done.stdout)
        if not found or found[0].sha != sha:
            raise CommitVanished(f"{sha} is not a commit of {self.url}")
        return found[0]

    async def resolve(self, prefix: str) -> str | None:
        """The one commit of the mirror that begins with 7 or more digits, or None."""
        digits = prefix.lower()
        if not PREFIX.fullmatch(digits):
            return None
        await self._have()
        verify = ("rev-parse", "--verify", "--quiet", "--end-of-options")
        done = await self._git.read(*verify, f"{digits}^{{commit}}", fine=(0, 1, 128))
        return done.stdout.decode().strip() or None

    async def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` contains `old`; CommitVanished when one of them is not here."""
        check_id(old)
        check_id(new)
        await self._have()
        ask = ("merge-base", "--is-ancestor", old, new)
        return (await self._git.read(*ask, fine=(0, 1))).code == 0

    async def lacks(self, shas: Sequence[str]) -> set[str]:
        """Which of these commits are not in the mirror."""
        if not shas:
            return set()
        for sha in shas:
            check_id(sha)
        await self._have()
        names = "".join(f"{sha}^{{commit}}\n" for sha in shas).encode()
        done = await self._git.read("cat-file", "--batch-check", input=names)
        answers = done.stdout.decode(errors="replace").splitlines()
        found = (answer.split(" ") for answer in answers)
        present = {words[0] for words in found if words[1:2] == ["commit"]}
        return {sha for sha in shas if sha not in present}

    async def intact(self, sha: str) -> bool:
        """Whether every file of a commit that was fetched can be read.

        A mirror of which that is not true is fetched anew by the next fetch.
        """
        check_id(sha)
        await self._have()
        return await self._git.reads_whole("archive", "--format=tar", sha)

    async def checkout(self, sha: str, into: Path) -> None:
        """Write the files of a commit into a directory, made when absent.

        Just the files: no `.git`, no submodules, no filters; links stay links.
        """
        check_id(sha)
        await self._have()
        archive = self._git.argv("archive", "--format=tar", sha)
        env = self._git.env
        done = await files.unpack(archive, into, env=env, seconds=LOCAL_SECONDS)
        if done.code != 0:
            raise await self._git.error(done.stderr)

    def flake_url(self, build: int, sha: str, directory: str) -> str:
        """How Nix names the flake in `directory` of a commit that a build keeps.

        By `ref` Nix 2.8 finds the commit, by `rev` every Nix makes sure of it.
        """
        return self._flake_url(_pin(build), sha, directory)

    def own_url(self, sha: str, directory: str) -> str:
        """The same for a commit of our own."""
        return self._flake_url(f"{OWN}/{sha}", sha, directory)

    def _flake_url(self, ref: str, sha: str, directory: str) -> str:
        url = f"git+file://{quote(str(self.path))}?ref={ref}&rev={sha}"
        return url if directory in ("", ".") else f"{url}&dir={quote(directory)}"

    async def _have(self) -> None:
        """See to it that there is a mirror to read, without waiting for a fetch."""
        if not self._ready:
            async with self._lock:
                await self._prepare()

    async def _prepare(self) -> None:
        """The same under the lock, for a git that writes."""
        if not self._git.clean:
            await asyncio.to_thread(files.sweep, self.path)
        if not self._ready:
            await asyncio.to_thread(files.make_room, self.path)
            options = ("--quiet", "--bare", "--template=", "--object-format=sha1")
            await self._git.write("init", *options, str(self.path))
            self._ready = True

    async def _fetch(self, source: str, ref: str) -> None:
        """Fetch into a ref of ours; a damaged mirror is made anew, once."""
        for _ in range(2):
            try:
                if not self._git.sound:
                    await self._replace()
                await self._prepare()
                await self._fetch_once(source, ref)
            except CommitVanished:
                await self._check_remote()
                raise
            except HostFault:
                if self._git.sound:
                    raise
            if self._git.sound:
                return
        raise HostFault(f"{self.path} is damaged as soon as made: check this disk")

    async def _fetch_once(self, source: str, ref: str) -> None:
        refspec = f"+{source}:{ref}"
        try:
            await self._git.fetch(*FETCH, self.url, refspec, seconds=FETCH_SECONDS)
        except HostFault:
            # Half a pack can be large, and the next fetch far away.
            await asyncio.to_thread(files.sweep, self.path)
            raise

    async def _replace(self) -> None:
        """Throw a damaged mirror away and fetch again what builds still work with."""
        log.warning("%s is damaged: it is fetched anew", self.path)
        await asyncio.to_thread(files.discard, self.path)
        self._ready, self._git.sound = False, True
        await self._prepare()
        for build, sha in self._pins.items():
            try:
                await self._fetch_once(sha, _pin(build))
            except CommitVanished:
                log.warning("%s of build #%d is gone from %s", sha, build, self.url)


def _pin(build: int) -> str:
    return f"{NAMESPACE}/build/{build:d}"


def _commits(records: bytes) -> list[Commit]:
    """What `git log` wrote with the options RECORD."""
    fields = records.decode(errors="replace").split("\0")[:-1]
    return [
        Commit(sha, message.strip().partition("\n")[0], author, message.rstrip("\n"))
        for sha, author, message in zip(*[iter(fields)] * 3, strict=True)
    ]
