"""The inputs that a commit's flake.lock names: read from the mirror, fetched when absent.

No code of the commit runs here, and nothing is fetched that is not locked.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ci.adapters.nix_eval.expression import Expressions, Place, Say
from ci.adapters.nix_eval.faults import fetch_fault
from ci.adapters.nix_eval.flake import FlakeUrl
from ci.adapters.nix_eval.harness import Harness
from ci.adapters.nix_eval.lock import LockedInput, own_inputs, parse_lock
from ci.adapters.process import Finished, run
from ci.errors import CommitFault, HostFault, HostLimit
from ci.models import human_seconds
from ci.text import printable

EXPRESSION = files("ci.adapters.nix_eval").joinpath("inputs.nix").read_text()
QUICK_SECONDS = 60.0
# Of the whole lock file, and of what one Nix process is told to fetch: bytes.
LARGEST_LOCK = 4 * 1024 * 1024
BATCH = 64 * 1024
# For an hour Nix would take what an address gave it for what it gives today, and find
# that a newer lock does not fit.
ASKED_AGAIN = ("--option", "tarball-ttl", "0")
# Store paths on one command line.
PATHS = 1000
NAMES_SHOWN = 8
LONGEST_NAME = 255


@dataclass(frozen=True)
class Inputs:
    """Reads and fetches inputs; `env` is for git, `timeout` seconds for one fetch."""

    expressions: Expressions
    env: Mapping[str, str]
    timeout: float

    async def read(
        self, flake: FlakeUrl, mirror: Path, harness: Harness | None = None
    ) -> tuple[LockedInput, ...]:
        """The inputs of the commit's flake.lock, and those that its harness adds.

        Raises CommitFault: no flake.nix, or a lock that cannot be used; HostFault: the
        mirror cannot be read.
        """
        content = await self.lock(flake, mirror)
        inputs = await asyncio.to_thread(parse_lock, content)
        if harness is None:
            return inputs
        own = await asyncio.to_thread(own_inputs, content)
        return (*inputs, *harness.inputs(own))

    async def lock(self, flake: FlakeUrl, mirror: Path) -> bytes | None:
        """The commit's flake.lock, by `git cat-file`; None when it has none.

        Raises as `read` does.
        """
        files = [flake.file("flake.nix"), flake.file("flake.lock")]
        wanted = [flake.rev, *(f"{flake.rev}:{path}" for path in files)]
        done = await self._cat(mirror, "--batch-check", wanted)
        commit, nix, lock = [*_sizes(done.stdout), None, None, None][:3]
        if done.code != 0 or commit is None:
            reason = done.stderr.decode(errors="replace").strip()
            raise HostFault(f"the mirror lacks commit {flake.rev}: {reason or mirror}")
        if nix is None:
            where = (
                f"the directory {flake.directory}" if flake.directory else "the root"
            )
            raise CommitFault(f"there is no flake.nix in {where} of this commit")
        if lock is None:
            return None
        if lock > LARGEST_LOCK:
            raise CommitFault(
                f"flake.lock has {lock} bytes, and {LARGEST_LOCK} are read at most"
            )
        done = await self._cat(mirror, "--batch", wanted[2:])
        return done.stdout.partition(b"\n")[2][:lock]

    async def _cat(self, mirror: Path, how: str, names: Sequence[str]) -> Finished:
        argv = ["git", f"--git-dir={mirror}", "cat-file", how, "--follow-symlinks"]
        env = {
            **self.env,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        asked = "".join(f"{name}\n" for name in names).encode()
        return await run(argv, env=env, input=asked, timeout=QUICK_SECONDS)

    async def absent(self, inputs: Sequence[LockedInput]) -> list[LockedInput]:
        """Those that the store does not have; looks at its directory only."""
        store_dir = self.expressions.nix.store_dir

        def look() -> list[LockedInput]:
            paths = [(item, item.store_path(store_dir)) for item in inputs]
            return [item for item, path in paths if path is None or not path.exists()]

        return await asyncio.to_thread(look)

    async def invalid(self, inputs: Sequence[LockedInput]) -> list[LockedInput]:
        """Those that the store has lost, or has only in part after a crash: asks Nix."""
        nix = self.expressions.nix
        found = [(item.store_path(nix.store_dir), item) for item in inputs]
        paths = {str(path): item for path, item in found if path is not None}
        if not paths:
            return []
        program = str(Path(nix.nix).with_name("nix-store"))
        env = {**self.env, **nix.env}
        asked, lines = list(paths), list[str]()
        for start in range(0, len(asked), PATHS):
            some = asked[start : start + PATHS]
            argv = [program, "--check-validity", "--print-invalid", *some]
            done = await run(argv, env=env, timeout=QUICK_SECONDS)
            if done.code != 0:
                reason = done.stderr.decode(errors="replace").strip()
                raise HostFault(f"Nix cannot tell which inputs the store has: {reason}")
            lines += done.stdout.decode().split()
        return [paths[line] for line in lines if line in paths]

    async def fetch(
        self, inputs: Sequence[LockedInput], place: Place, say: Say
    ) -> None:
        """Fetch them, in a sandboxed process with the network (for very many: several).

        Raises NetworkDown, CommitFault (not what the lock says), HostFault.
        """
        for batch in _batches([item for item in inputs if not item.ours]):
            await self._fetch_some(batch, place, say)
        for batch in _batches([item for item in inputs if item.ours]):
            try:
                await self._fetch_some(batch, place, say)
            except CommitFault as error:
                raise HostFault(str(error)) from error

    async def _fetch_some(
        self, inputs: Sequence[LockedInput], place: Place, say: Say
    ) -> None:
        shown = (printable(item.name[:LONGEST_NAME]) for item in inputs[:NAMES_SHOWN])
        names = ", ".join(shown)
        more = len(inputs) - NAMES_SHOWN
        others = f" and {more} more" if more > 0 else ""
        say(f"fetching the flake input {names}{others}\n".encode())
        wanted = [{"name": item.name, "locked": item.locked} for item in inputs]
        attempt = await self.expressions.run(
            EXPRESSION,
            {"inputs": wanted},
            place,
            options=ASKED_AGAIN,
            network=True,
            say=say,
            timeout=self.timeout,
        )
        if attempt.answer is not None:
            return
        name = attempt.last.get("input")
        name = printable(name[:LONGEST_NAME]) if name is not None else None
        if attempt.excess is not None:
            job = f"fetching the flake input `{name}`"
            raise HostLimit(attempt.excess.sentence(job))
        if attempt.expired:
            limit = human_seconds(self.timeout)
            raise HostFault(
                f"fetching the flake input `{name}` took longer than {limit}"
            )
        if name is None:
            raise HostFault(
                f"Nix did not begin to fetch the flake inputs: {attempt.line}"
            )
        raise fetch_fault(attempt.output, attempt.line, name)


def _sizes(output: bytes) -> list[int | None]:
    """What `git cat-file --batch-check` said of each object: bytes, None when missing.

    After the line of a link that leads nowhere comes a path of so many bytes.
    """
    found: list[int | None] = []
    while output:
        header, _, output = output.partition(b"\n")
        words = header.split()
        is_object = len(words) == 3 and words[1] in (b"blob", b"commit")
        found.append(int(words[2]) if is_object else None)
        if words[0] in (b"symlink", b"dangling", b"loop", b"notdir"):
            output = output[int(words[1]) + 1 :]
    return found


def _batches(inputs: Sequence[LockedInput]) -> Iterator[list[LockedInput]]:
    """Runs of inputs that fit on a command line each."""
    batch: list[LockedInput] = []
    size = 0
    for item in inputs:
        length = len(json.dumps([item.name, item.locked]))
        if batch and size + length > BATCH:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch
