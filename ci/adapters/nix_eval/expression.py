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

from ci.adapters.nix_environment import EXPERIMENTAL, NixEnvironment
from ci.adapters.nix_eval.faults import Places, first_line, plain
from ci.adapters.nix_eval.stream import Stderr
from ci.adapters.process import run
from ci.adapters.sandbox import Sandbox

ANSWER_LIMIT = 256 * 1024 * 1024
# What a commit says in nixConfig, and what this machine calls `nixpkgs`, is not asked.
OPTIONS = (
    *("--option", "accept-flake-config", "false"),
    *("--option", "allow-unsafe-native-code-during-evaluation", "false"),
    *("--option", "flake-registry", ""),
    *("--option", "warn-dirty", "false"),
    *("--option", "connect-timeout", "5"),
    "--show-trace",
)

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
    that killed it), `expired` that its time was over.
    """

    answer: Any
    marks: Sequence[Mapping[str, Any]]
    output: str
    places: Places
    code: int = 0
    expired: bool = False

    @property
    def last(self) -> Mapping[str, Any]:
        """What Nix was doing when it ended; empty before it began."""
        return self.marks[-1] if self.marks else {}

    @property
    def line(self) -> str:
        """The one line of `output` that tells a person what is wrong."""
        return first_line(self.output, self.places)

    @property
    def signal(self) -> int:
        """The signal that ended Nix, 0 when it ended by itself."""
        return -self.code if self.code < 0 else max(0, self.code - 128)


@dataclass(frozen=True)
class Expressions:
    """Runs expressions; `memory` is bytes, `env` what the sandbox itself is run with."""

    nix: NixEnvironment
    sandbox: Sandbox
    memory: int
    env: Mapping[str, str]

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
        process.run raises; every failure of Nix's is in the result.
        """
        mark = secrets.token_hex(16)
        nix = self.nix.for_fetching() if network else self.nix
        call = f"({text}) (builtins.fromJSON {literal({**arguments, 'mark': mark})})"
        argv = [nix.nix, *EXPERIMENTAL, "eval", "--raw", *OPTIONS, *options]
        sandboxed = self.sandbox.evaluation(
            [*argv, "--expr", call],
            nix=nix,
            readable=[place.mirror],
            cache=place.cache,
            network=network,
            memory=self.memory,
        )
        places = Places(str(nix.store_dir), quote(str(place.mirror)))
        stream = Stderr(mark, places, say)
        try:
            done = await run(
                sandboxed,
                env=self.env,
                timeout=timeout,
                limit=ANSWER_LIMIT,
                say=stream.feed,
            )
        except TimeoutError:
            return Attempt(None, stream.marks, "", places, expired=True)
        finally:
            stream.finish()
        whole = done.code == 0 and done.stdout.startswith(mark.encode())
        answer = None
        if whole:
            answer = await asyncio.to_thread(json.loads, done.stdout[len(mark) :])
        output = re.sub(rf"trace: {mark}.*\n?", "", plain(done.stderr))
        return Attempt(answer, stream.marks, output, stream.places, done.code)


def literal(value: object) -> str:
    """A Nix string with the JSON of `value`, which is ASCII and on one line."""
    text = json.dumps(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + text.replace("${", "\\${") + '"'
