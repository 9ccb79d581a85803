"""What the doctor says of the limits of a running server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ci.adapters.cgroup import Kernel
from ci.doctor.limits import limits_in_force

PID = 4242


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    """A kernel whose process 4242 is in the cgroup `unit/server`, with controllers."""
    tree = tmp_path / "tree"
    (tree / "unit/server").mkdir(parents=True)
    (tree / "unit/cgroup.subtree_control").write_text("cpu memory pids\n")
    proc = tmp_path / "proc"
    for name in ("self", str(PID)):
        (proc / name).mkdir(parents=True)
    mount = f"30 23 0:26 / {tree} rw - cgroup2 cgroup2 rw\n"
    (proc / "self/mountinfo").write_text(mount)
    (proc / str(PID) / "cgroup").write_text("0::/unit/server\n")
    return Kernel(proc)


def lock(state_dir: Path, pid: object = PID) -> None:
    (state_dir / "lock").write_text(json.dumps({"pid": pid, "host": "here"}))


def test_by_cgroup(tmp_path: Path, kernel: Kernel) -> None:
    lock(tmp_path)
    base = tmp_path / "tree/unit"
    said = limits_in_force(tmp_path, kernel)
    assert said == f"memory and processes are limited by cgroup, below {base}"


@pytest.mark.parametrize(
    ("group", "controllers"),
    [("unit/other", "memory pids"), ("unit/server", "memory"), ("unit/server", "")],
)
def test_by_resource_limits(
    tmp_path: Path, kernel: Kernel, group: str, controllers: str
) -> None:
    lock(tmp_path)
    (kernel.proc / str(PID) / "cgroup").write_text(f"0::/{group}\n")
    (tmp_path / "tree/unit/cgroup.subtree_control").write_text(controllers)
    said = limits_in_force(tmp_path, kernel)
    assert "by resource limits" in said
    assert "Delegate=yes" in said


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x"}', '{"pid": 4243}'])
def test_no_server(tmp_path: Path, kernel: Kernel, content: str) -> None:
    assert "no server runs" in limits_in_force(tmp_path, kernel)
    (tmp_path / "lock").write_text(content)
    assert "no server runs" in limits_in_force(tmp_path, kernel)
