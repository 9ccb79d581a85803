"""Control groups with memory and process limits, in a machine of their own.

This one's kernel may have given those controllers to version 1, and they are not ours.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.fakes.guest import IN_GUEST, GuestMissing, find_kernel, run_in_guest

SECONDS = 900


@pytest.mark.faults
@pytest.mark.timeout(SECONDS + 10)
def test_limits_by_cgroup(tmp_path: Path) -> None:
    try:
        find_kernel()
    except GuestMissing as error:
        pytest.skip(f"{error}; limits by cgroup are not tested against a kernel")
    argv = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {"PATH": os.environ["PATH"], "HOME": "/run", "TERM": "dumb", IN_GUEST: "1"}
    ended = run_in_guest(
        [*argv, "tests/end_to_end/in_guest.py"],
        env=env,
        folder=tmp_path,
        timeout=SECONDS,
    )
    assert ended.code == 0, ended.output
    assert "skipped" not in ended.output, ended.output
