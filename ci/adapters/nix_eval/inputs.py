"""The inputs that a commit's flake.lock names: read from the mirror, fetched when absent.

No code of the commit runs here, and nothing is fetched that is not locked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ci.adapters.nix_eval.expression import Expressions, Place, Say
from ci.adapters.nix_eval.faults import fetch_fault
from ci.adapters.nix_eval.flake import FlakeUrl
from ci.adapters.nix_eval.lock import LockedInput, parse_lock
from ci.adapters.process import run
from ci.errors import CommitFault, HostFault
from ci.models import human_seconds

EXPRESSION = files("ci.adapters.nix_eval").joinpath("inputs.nix").read_text()
QUICK_SECONDS = 60.0


@dataclass(frozen=True)
class Inputs:
    """Reads and fetches inputs; `env` is for git, `timeout` seconds for one fetch."""

    expressions: Expressions
    env: Mapping[str, str]
    timeout: float

    async def read(self, flake: FlakeUrl, mirror: Path) -> tuple[LockedInput, ...]:
        """The inputs of the commit's flake.lock, by one `git cat-file`.

        Raises CommitFault: no flake.nix, or a lock that cannot be used; HostFault: the
        mirror cannot be read.
        """
        wanted = ["", flake.file("flake.nix"), flake.file("flake.lock")]
        names = "".join(f"{flake.rev}{':' if path else ''}{path}\n" for path in wanted)
        argv = [
            "git",
            f"--git-dir={mirror}",
            "cat-file",
            "--batch",
            "--follow-symlinks",
        ]
        env = {
            **self.env,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
        }
        done = await run(argv, env=env, input=names.encode(), timeout=QUICK_SECONDS)
        answers = list(_objects(done.stdout))
        if done.code != 0 or len(answers) != len(wanted) or answers[0] is None:
            reason = done.stderr.decode(errors="replace").strip()
            raise HostFault(f"the mirror lacks commit {flake.rev}: {reason or mirror}")
        if answers[1] is None:
            where = (
                f"the directory {flake.directory}" if flake.directory else "the root"
            )
            raise CommitFault(f"there is no flake.nix in {where} of this commit")
        return parse_lock(answers[2])

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
        argv = [program, "--check-validity", "--print-invalid", *paths]
        done = await run(argv, env={**self.env, **nix.env}, timeout=QUICK_SECONDS)
        if done.code != 0:
            reason = done.stderr.decode(errors="replace").strip()
            raise HostFault(f"Nix cannot tell which inputs the store has: {reason}")
        return [paths[line] for line in done.stdout.decode().split() if line in paths]

    async def fetch(
        self, inputs: Sequence[LockedInput], place: Place, say: Say
    ) -> None:
        """Fetch them, in one sandboxed process with the network.

        Raises NetworkDown, CommitFault (not what the lock says), HostFault.
        """
        say(
            f"fetching the flake input {', '.join(item.name for item in inputs)}\n".encode()
        )
        wanted = [{"name": item.name, "locked": item.locked} for item in inputs]
        attempt = await self.expressions.run(
            EXPRESSION,
            {"inputs": wanted},
            place,
            network=True,
            say=say,
            timeout=self.timeout,
        )
        if attempt.answer is not None:
            return
        name = attempt.last.get("input")
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


def _objects(output: bytes) -> list[bytes | None]:
    """The contents that `git cat-file --batch` printed, None for what is missing."""
    found: list[bytes | None] = []
    while output:
        header, _, output = output.partition(b"\n")
        words = header.split()
        if words[-1] == b"missing":
            found.append(None)
            continue
        size = int(words[-1])
        # Links that lead nowhere have a path, not a file's content.
        is_object = words[-2] in (b"blob", b"commit")
        found.append(output[:size] if is_object else None)
        output = output[size + 1 :]
    return found
