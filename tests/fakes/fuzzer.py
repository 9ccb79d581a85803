"""Schemathesis against a running server: does it do what its document promises?"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

# What no schema can say: which names git and Nix allow, which parameters exclude which.
UNSAYABLE = """
[[operations]]
include-name = ["POST /build/trigger", "GET /builds/{number}/log"]
checks.positive_data_acceptance.enabled = false
"""


async def fuzz(
    url: str, directory: Path, seconds: int, phases: str = "examples,coverage,fuzzing"
) -> tuple[int, str]:
    """Good and bad requests to every operation of `/openapi.json`; (exit code, output)."""
    (directory / "schemathesis.toml").write_text(UNSAYABLE)
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("schemathesis")),
        "run",
        f"{url}/openapi.json",
        f"--max-time={seconds}",
        f"--phases={phases}",
        "--seed=1",
        "--no-color",
        "--no-shrink",
        "--request-timeout=5",
        "--suppress-health-check=all",
        "--warnings=off",
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
