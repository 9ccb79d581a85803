"""All targets of one flake, evaluated together; apart only to find out what fails.

`throw` and failed assertions are caught by the expression; their targets are evaluated
again, alone, for their messages. Anything else ends Nix: the target that it was at is
blamed with Nix's message, and the others are evaluated again without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain
from time import monotonic
from typing import Any

from ci.adapters.nix_eval.expression import Attempt, Expressions, Place, Say
from ci.adapters.nix_eval.faults import ASKED_NETWORK, host_fault, worded
from ci.adapters.nix_eval.flake import FlakeUrl
from ci.adapters.nix_eval.harness import Harness
from ci.adapters.nix_eval.inputs import Inputs
from ci.adapters.nix_eval.patterns import Name, Request
from ci.adapters.nix_eval.targets import Evaluated, Naming, unwanted
from ci.errors import BuildServerError, CommitFault, HostFault, HostLimit
from ci.models import human_seconds
from ci.text import printable

EXPRESSION = files("ci.adapters.nix_eval").joinpath("targets.nix").read_text()
# How many failing targets get their own message, and how many are evaluated at a time.
EXPLAINED = 20
AT_A_TIME = 2
# What history and pages can cope with.
MOST_TARGETS = 5000
# As long as the name of a file, or nearly that of a derivation, may be.
LONGEST_NAME = 255
KILLED = 9

Key = tuple[str, ...]


class Evaluation:
    """One evaluation of one flake: use it once."""

    def __init__(
        self,
        expressions: Expressions,
        inputs: Inputs,
        flake: FlakeUrl,
        place: Place,
        *,
        import_from_derivation: bool,
        say: Say,
        timeout: float,
        harness: Harness | None = None,
    ) -> None:
        nix = expressions.nix
        allowed = "true" if import_from_derivation else "false"
        self._options = ("--option", "allow-import-from-derivation", allowed)
        self._expressions = expressions
        self._inputs = inputs
        self._flake = flake
        self._place = place
        self._say = say
        self._timeout = timeout
        self._harness = harness
        self._deadline = monotonic() + timeout
        self._naming = Naming(nix.system, nix.store_dir)
        self._failed: dict[Key, Evaluated] = {}
        self._inputs_checked = False

    async def targets(self, requests: Sequence[Request]) -> list[Evaluated]:
        """Every target that the requests match; those that ended Nix come first."""
        answer = await self._until_answered(requests)
        found = {
            _key(target): target
            for target in answer["targets"]
            if not unwanted(target, requests)
        }
        if not found and not self._failed:
            raise self._naming.nothing(requests, answer)
        explained = await self._explain([t for t in found.values() if "caught" in t])
        return [
            *self._failed.values(),
            *(explained.get(key) or self._result(t) for key, t in found.items()),
        ]

    async def _until_answered(self, requests: Sequence[Request]) -> Mapping[str, Any]:
        """Evaluate all; again, without what ended Nix, until there is an answer.

        After more failures than anybody reads, the rest is only listed.
        """
        while True:
            mode = "all" if len(self._failed) < EXPLAINED else "list"
            attempt = await self._attempt(requests, mode)
            if attempt.answer is not None:
                answer: Mapping[str, Any] = attempt.answer
                _check_size(answer)
                return answer
            error = self._error(attempt)
            if not isinstance(error, CommitFault):
                raise error
            if await self._inputs_restored(attempt):
                continue
            blamed = self._blamed(attempt, str(error))
            if blamed is None:
                raise error

    def _blamed(self, attempt: Attempt, error: str) -> Key | None:
        """Note what Nix was at when it ended; None when that was nothing in particular."""
        path, pattern = attempt.last.get("path"), attempt.last.get("pattern")
        if attempt.expired or (path is None and pattern is None):
            return None
        key = tuple(path) if path else (str(pattern),)
        if key in self._failed or max(map(len, key)) > LONGEST_NAME:
            return None
        name = self._naming.name(path) if path else str(pattern)
        self._failed[key] = Evaluated(name, error=error)
        return key

    async def _explain(
        self, caught: Sequence[Mapping[str, Any]]
    ) -> dict[Key, Evaluated]:
        """Evaluate each alone, nothing caught, for its own message."""
        turn = asyncio.Semaphore(AT_A_TIME)

        async def explain(target: Mapping[str, Any]) -> Evaluated | BuildServerError:
            async with turn:
                try:
                    return await self._alone(target)
                except BuildServerError as error:
                    return error

        some = caught[: max(0, EXPLAINED - len(self._failed))]
        async with asyncio.TaskGroup() as group:
            tasks = {
                _key(target): group.create_task(explain(target)) for target in some
            }
        explained: dict[Key, Evaluated] = {}
        for key, task in tasks.items():
            result = task.result()
            if isinstance(result, BuildServerError):
                raise result
            explained[key] = result
        return explained

    async def _alone(self, target: Mapping[str, Any]) -> Evaluated:
        path = tuple(Name(name) for name in target["path"])
        request = Request("", path, tuple(target["suffix"]))
        attempt = await self._attempt([request], "one")
        if attempt.answer is not None:
            return self._result(attempt.answer["targets"][0])
        error = self._error(attempt)
        if isinstance(error, CommitFault) and not attempt.expired:
            return Evaluated(self._naming.name(target["path"]), error=str(error))
        raise error

    def _result(self, target: Mapping[str, Any]) -> Evaluated:
        name = self._naming.name(target["path"])
        if "caught" in target:
            why = f"does not evaluate; see it with `nix eval .#{name}.drvPath`"
            return Evaluated(name, error=why)
        if target.keys() <= {"path", "suffix"}:
            why = f"not evaluated, because {len(self._failed)} others do not evaluate"
            return Evaluated(name, error=why)
        return self._naming.evaluated(target)

    async def _attempt(self, requests: Sequence[Request], mode: str) -> Attempt:
        text = EXPRESSION
        arguments: dict[str, Any] = {
            "source": self._flake.source,
            "url": self._flake.url,
            "requests": [request.argument() for request in requests],
            "skip": list(self._failed),
            "most": MOST_TARGETS,
            "mode": mode,
        }
        if self._harness is not None:
            text = self._harness.around(text)
            arguments["harness"] = self._harness.argument(
                self._naming.system, self._naming.store_dir
            )
        return await self._expressions.run(
            text,
            arguments,
            self._place,
            options=self._options,
            say=self._say,
            timeout=max(0.0, self._deadline - monotonic()),
        )

    async def _inputs_restored(self, attempt: Attempt) -> bool:
        """Whether Nix failed only for want of locked inputs that the store lost."""
        # The harness's are never asked of the network.
        suspected = self._harness or ASKED_NETWORK.search(attempt.output)
        if self._inputs_checked or not suspected:
            return False
        self._inputs_checked = True
        inputs = await self._inputs.read(self._flake, self._place.mirror, self._harness)
        lost = await self._inputs.invalid(inputs)
        if lost:
            await self._inputs.fetch(lost, self._place, self._say)
        return bool(lost)

    def _error(self, attempt: Attempt) -> BuildServerError:
        """Whose fault a failed attempt is, with one line that says what failed."""
        if attempt.expired:
            limit = human_seconds(self._timeout)
            return CommitFault(
                f"evaluation took longer than {limit}{self._at(attempt)}"
            )
        if attempt.excess is not None:
            return HostLimit(attempt.excess.sentence("evaluation", self._at(attempt)))
        line = attempt.line
        fault = host_fault(attempt.output, line)
        if attempt.signal == KILLED:
            return HostLimit(
                f"evaluation was killed{self._at(attempt)}: this host ran out of memory"
            )
        if isinstance(fault, HostLimit):
            took = self._expressions.limits.too_much_memory
            return HostLimit(took.sentence("evaluation", self._at(attempt)))
        if fault is not None:
            return fault
        if not attempt.marks:
            return HostFault(f"Nix did not begin to evaluate: {line}")
        if attempt.last.get("stage") == "source":
            return HostFault(f"Nix cannot read the mirror: {line}")
        if attempt.signal or line == "interrupted by the user":
            return HostFault(f"Nix was ended by signal {attempt.signal}: {line}")
        return CommitFault(worded(line))

    def _at(self, attempt: Attempt) -> str:
        path = attempt.last.get("path")
        if not path:
            return ""
        return f", at {printable(self._naming.name(path)[:LONGEST_NAME])}"


def _check_size(answer: Mapping[str, Any]) -> None:
    """Raises CommitFault for more, or longer, than anybody can have meant."""
    many = answer["many"]
    if many > MOST_TARGETS:
        raise CommitFault(
            f"{many} targets match, and at most {MOST_TARGETS} are built of one commit: "
            "name fewer in `targets`"
        )
    for name in chain.from_iterable(target["path"] for target in answer["targets"]):
        if len(name) > LONGEST_NAME:
            raise CommitFault(
                f"the name of an attribute is longer than {LONGEST_NAME} characters: "
                f"{printable(name[:LONGEST_NAME])}"
            )


def _key(target: Mapping[str, Any]) -> Key:
    return (*target["path"], *target["suffix"])
