"""One pure Nix expression, evaluated in the sandbox, with its errors told apart.

Our expressions print a line before every step that may fail (see targets.nix); the last
one tells what Nix was doing when it failed, however it failed.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ci.adapters.cells import Cells, Excess, Limits
from ci.adapters.nix_environment import EXPERIMENTAL, NixEnvironment
from ci.adapters.nix_eval.faults import Places, first_line, plain
from ci.adapters.nix_eval.stream import Stderr
from ci.adapters.process import Finished, TooMuchOutput, run
from ci.adapters.sandbox import Sandbox
from ci.errors import CommitFault
from ci.text import printable

ANSWER_LIMIT = 32 * 1024 * 1024
# The kernel takes no longer argument (MAX_ARG_STRLEN, execve(2)): bytes.
LONGEST_CALL = 128 * 1024 - 1
# What a commit says in nixConfig is not asked.
CONFINED = (
    *("--option", "accept-flake-config", "false"),
    *("--option", "allow-unsafe-native-code-during-evaluation", "false"),
    *("--option", "warn-dirty", "false"),
    *("--option", "connect-timeout", "5"),
    # Nix waits five minutes for a server that has stopped sending, and tries five times.
    *("--option", "stalled-download-timeout", "30"),
    "--show-trace",
)
# Nor what anybody calls `nixpkgs`: all is locked.
OPTIONS = (*CONFINED, "--option", "flake-registry", "")

Say = Callable[[bytes], None]


@dataclass(frozen=True)
class Place:
    """What an evaluation may see beside the store: the mirror; and write: its cache."""

    mirror: Path
    cache: Path


@dataclass(frozen=True)
class Attempt:
    """How it went: `answer` is the expression's JSON value, None when Nix failed.

    `marks` are what it said on the way, `output` is the last MiB of standard error
    without colours (`places` explains its paths), `code` the exit code (< 0: the signal
    that killed it), `expired` that its time was over, `excess` which limit it ran into,
    if the kernel tells.
    """

    answer: Any
    marks: Sequence[Mapping[str, Any]]
    output: str
    places: Places
    code: int = 0
    expired: bool = False
    excess: Excess | None = None

    @property
    def last(self) -> Mapping[str, Any]:
        """What Nix was doing when it ended; empty before it began."""
        return self.marks[-1] if self.marks else {}

    @property
    def line(self) -> str:
        """The one line of `output` that tells a person what is wrong."""
        return printable(first_line(self.output, self.places))

    @property
    def signal(self) -> int:
        """The signal that ended Nix, 0 when it ended by itself."""
        return -self.code if self.code < 0 else max(0, self.code - 128)


@dataclass(frozen=True)
class Expressions:
    """Runs expressions, each in a cell with these limits; `env` has our mark."""

    nix: NixEnvironment
    sandbox: Sandbox
    limits: Limits
    env: Mapping[str, str]
    cells: Cells

    async def run(
        self,
        text: str,
        arguments: Mapping[str, Any],
        place: Place,
        *,
        options: Sequence[str] = (),
        network: bool = False,
        say: Say,
        timeout: float,  # noqa: ASYNC109 - the result tells, with what it was doing
    ) -> Attempt:
        """Apply the function `text` to `arguments` and a fresh `mark`.

        With `network` Nix has its credentials, too. `timeout` is seconds. Raises what
        process.run raises, and CommitFault where what the commit made up is too long;
        every failure of Nix's is in the result.
        """
        mark = secrets.token_hex(16)
        nix = self.nix.for_fetching() if network else self.nix
        argv = [nix.nix, *EXPERIMENTAL, "eval", "--raw", *OPTIONS, *options]
        argv += ["--expr", _call(text, {**arguments, "mark": mark})]
        places = Places(str(nix.store_dir), quote(str(place.mirror)))
        stream = Stderr(mark, places, say)
        try:
            done, excess = await self.confined(
                argv,
                nix,
                place,
                network=network,
                timeout=timeout,
                limit=ANSWER_LIMIT,
                say=stream.feed,
            )
        except TimeoutError:
            return Attempt(None, stream.marks, "", places, expired=True)
        except TooMuchOutput:
            raise CommitFault(
                "what its targets are called is longer than "
                f"{ANSWER_LIMIT // 2**20} MiB"
            ) from None
        finally:
            stream.finish()
        whole = done.code == 0 and done.stdout.startswith(mark.encode())
        answer = None
        if whole:
            answer = await asyncio.to_thread(json.loads, done.stdout[len(mark) :])
        output = re.sub(rf"trace: {mark}.*\n?", "", plain(done.stderr))
        return Attempt(
            answer, stream.marks, output, stream.places, done.code, excess=excess
        )

    async def confined(
        self,
        argv: Sequence[str],
        nix: NixEnvironment,
        place: Place,
        *,
        network: bool,
        timeout: float,  # noqa: ASYNC109 - the result tells, with what it was doing
        limit: int,
        say: Say | None = None,
    ) -> tuple[Finished, Excess | None]:
        """Run this Nix in the sandbox, and within the limits; which one it ran into.

        `timeout` is seconds, `limit` bytes of its answer. Raises what process.run raises.
        """
        async with self.cells.cell(self.limits) as cell:
            confined = self.sandbox.evaluation(
                cell.counted(argv),
                nix=nix,
                readable=[place.mirror],
                cache=place.cache,
                network=network,
                room=self.limits.memory,
            )
            done = await run(
                cell.enter(confined.argv),
                env=confined.marked(self.env),
                timeout=timeout,
                limit=limit,
                say=say,
            )
            return done, await cell.excess() if done.code else None


def _call(text: str, arguments: Mapping[str, Any]) -> str:
    call = f"({text}) (builtins.fromJSON {literal(arguments)})"
    if len(call) > LONGEST_CALL:
        raise CommitFault("the names of its attributes or inputs are too long")
    return call


def literal(value: object) -> str:
    """A Nix string with the JSON of `value`, which is ASCII and on one line."""
    text = json.dumps(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("${", "\\${") + '"'
