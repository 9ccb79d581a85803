"""The `command` builder: one command in a fresh checkout, inside the same sandbox.

Its output goes to the log unchanged, byte for byte. Its exit code is the verdict: it ran,
in a sandbox that was checked at start, so a non-zero code is the commit's. A command that
was killed from outside (the kernel short of memory, say) proves nothing about the commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ci.adapters import scratch
from ci.adapters.cells import Cells, Limits
from ci.adapters.process import Process, spawn
from ci.adapters.sandbox import Sandbox
from ci.adapters.telling import telling
from ci.build.job import Job
from ci.errors import CommitFault, HostFault, HostLimit
from ci.models import BuildState, Target

log = logging.getLogger(__name__)

KILLED = (-9, 137)
# Bytes of the end of the output that the first error line is looked for in.
TAIL = 4096


@dataclass(frozen=True)
class CommandBuilder:
    """Runs a repository's command; see job.Builder for how it ends.

    `env` has the mark of our processes; each command runs in a cell with `limits`.
    """

    sandbox: Sandbox
    env: Mapping[str, str]
    silent_timeout: float
    limits: Limits
    cells: Cells

    async def build(self, job: Job) -> Sequence[Target]:
        begun = time.monotonic()
        name = " ".join(job.repository.command)
        job.progress.step("running", [Target(name=name, state=BuildState.RUNNING)])
        try:
            await scratch.emptied(job.checkout)
            await job.mirror.checkout(job.claimed.sha, job.checkout)
            code, last = await self._run(job)
        finally:
            await _away(job)
        seconds = time.monotonic() - begun
        return [_target(name, code, last, seconds)]

    async def _run(self, job: Job) -> tuple[int, bytes]:
        """The exit code of the command, and the end of its output."""
        async with self.cells.cell(self.limits) as cell:
            confined = self.sandbox.command(
                cell.counted(job.repository.command),
                checkout=job.checkout,
                network=job.repository.network,
                room=self.limits.memory,
            )
            argv, env = cell.enter(confined.argv), confined.marked(self.env)
            async with spawn(argv, env=env, cwd=job.checkout) as process:
                last = await self._copy(process, job)
                code = await process.wait()
            excess = await cell.excess() if code else None
        if excess is not None:
            raise HostLimit(excess.sentence("the command"))
        return code, last

    async def _copy(self, process: Process, job: Job) -> bytes:
        """Copy the output as it comes; return the end of it, for the first error line."""
        tail, now = b"", asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self.silent_timeout) as silence:
                while chunk := await process.read():
                    silence.reschedule(now() + self.silent_timeout)
                    job.write(chunk)
                    if len(chunk) < TAIL:
                        chunk = tail + chunk
                    tail = chunk[-TAIL:]
        except TimeoutError:
            raise CommitFault(
                f"timed out: silent for more than {self.silent_timeout:g} seconds"
            ) from None
        return tail


async def _away(job: Job) -> None:
    """Remove the checkout; a later attempt tries again before it begins."""
    try:
        await scratch.removed(job.checkout)
    except HostFault as error:
        log.warning("build #%d: %s", job.claimed.number, error)


def _target(name: str, code: int, tail: bytes, seconds: float) -> Target:
    if code == 0:
        return Target(name=name, state=BuildState.SUCCEEDED, seconds=seconds)
    if code in KILLED:
        raise HostLimit("the command was killed from outside; was memory short?")
    said = telling(tail.decode(errors="replace").splitlines())
    error = f"exit code {code}: {said}" if said else f"exit code {code}"
    return Target(name=name, state=BuildState.FAILED, seconds=seconds, error=error)
