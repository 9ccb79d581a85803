"""Schemathesis against a running server: does it do what its document promises?"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

# What no schema can say: which names git and Nix allow, which parameters exclude which,
# and that an answer never ends.
UNSAYABLE = """
[[operations]]
include-name = [
  "POST /build/trigger",
  "GET /builds/{number}/log",
  "GET /builds/{number}/log.json",
  "GET /builds/{number}/log.txt",
]
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = ["GET /events", "GET /builds/{number}/events"]
enabled = false
"""


# Only ends what hangs: each operation is asked, however slow the machine is.
PATIENCE = 240


async def fuzz(
    url: str,
    directory: Path,
    seconds: int,
    phases: str = "fuzzing",
    examples: int = 8,
) -> tuple[int, str]:
    """Good and bad requests to every operation of `/openapi.json`; (exit code, output).

    First those at the limits, all of them. Then so many random `examples` each, or what
    else the `phases` are, for `seconds` at most.
    """
    (directory / "schemathesis.toml").write_text(UNSAYABLE)
    code, output = await _run(url, directory, PATIENCE, "examples,coverage", examples)
    if code == 0:
        code, more = await _run(url, directory, seconds, phases, examples)
        output += more
    return code, output


async def _run(
    url: str, directory: Path, seconds: int, phases: str, examples: int
) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        f"--max-time={seconds}",
        f"--max-examples={examples}",
        f"--phases={phases}",
        "--seed=1",
        "--no-color",
        "--no-shrink",
        "--request-timeout=10",
        "--suppress-health-check=all",
        "--warnings=off",
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
