"""The `command` builder: one command in a fresh checkout, inside the same sandbox.

Its output goes to the log unchanged, byte for byte. Its exit code is the verdict: it ran,
in a sandbox that was checked at start, so a non-zero code is the commit's. A command that
was killed from outside (the kernel short of memory, say) proves nothing about the commit.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ci.adapters.process import Process, spawn
from ci.adapters.sandbox import Sandbox
from ci.build.job import Job
from ci.errors import CommitFault, HostLimit
from ci.models import BuildState, Target

KILLED = (-9, 137)
# Bytes of the end of the output that the first error line is looked for in.
TAIL = 4096


@dataclass(frozen=True)
class CommandBuilder:
    """Runs a repository's command; see job.Builder for how it ends."""

    sandbox: Sandbox
    env: Mapping[str, str]
    silent_timeout: float

    async def build(self, job: Job) -> Sequence[Target]:
        begun = time.monotonic()
        name = " ".join(job.repository.command)
        job.progress.say("running", [Target(name=name, state=BuildState.RUNNING)])
        try:
            await job.mirror.checkout(job.claimed.sha, job.checkout)
            argv = self.sandbox.command(
                job.repository.command,
                checkout=job.checkout,
                network=job.repository.network,
            )
            async with spawn(argv, env=self.env, cwd=job.checkout) as process:
                last = await self._copy(process, job)
                code = await process.wait()
        finally:
            await asyncio.to_thread(shutil.rmtree, job.checkout, ignore_errors=True)
        seconds = time.monotonic() - begun
        return [_target(name, code, last, seconds)]

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


def _target(name: str, code: int, tail: bytes, seconds: float) -> Target:
    if code == 0:
        return Target(name=name, state=BuildState.SUCCEEDED, seconds=seconds)
    if code in KILLED:
        raise HostLimit("the command was killed from outside; was memory short?")
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    error = f"exit code {code}: {last}" if last else f"exit code {code}"
    return Target(name=name, state=BuildState.FAILED, seconds=seconds, error=error)
