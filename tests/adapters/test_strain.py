"""What this host was short of: looked up, not read in a log."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ci.adapters.host import Clocks
from ci.adapters.strain import Strain
from ci.errors import DiskFull, HostLimit

ROOT = Path(__file__).parents[2]


@dataclass
class Time:
    """Clocks to be set by hand."""

    now: Clocks

    def __call__(self) -> Clocks:
        return self.now

    def run(self, seconds: float) -> None:
        self.now = Clocks(*(clock + seconds for clock in vars(self.now).values()))


@pytest.fixture
def time() -> Time:
    return Time(Clocks(1e9, 100.0, 100.0))


def test_nothing_is_wrong_with_a_host_that_is_well(tmp_path: Path, time: Time) -> None:
    strain = Strain({"here": tmp_path, "nowhere": tmp_path / "absent"}, clocks=time)
    for _ in range(20):
        time.run(1)
        strain.look()
    assert strain.reason() is None


def test_a_process_that_the_kernel_killed_for_memory(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("pgfault 7\noom_kill 3\nballoon 0\n")
    strain, other = Strain({}, vmstat), Strain({}, None)
    assert strain.reason() is None
    vmstat.write_text("pgfault 9\noom_kill 5\nballoon 0\n")
    fault = strain.reason()
    assert isinstance(fault, HostLimit)
    assert "memory ran out" in str(fault)
    assert "killed 2 processes" in str(fault)
    assert other.reason() is None
    befallen = iter([3, 5])
    limited = Strain({}, vmstat, within_limits=lambda: next(befallen))
    vmstat.write_text("oom_kill 7\n")
    assert limited.reason() is None, "both were within the limits of other jobs"
    # Only what happened meanwhile counts.
    assert Strain({}, vmstat).reason() is None


@pytest.mark.parametrize("clock", ["wall", "since_boot", "running"])
def test_a_host_that_stood_still(clock: str, time: Time) -> None:
    strain = Strain({}, None, clocks=time)
    time.run(1)
    strain.look()
    time.now = replace(time.now, **{clock: getattr(time.now, clock) + 3600})
    if clock == "running":
        # Stopped, not asleep: all clocks agree.
        time.now = replace(
            time.now, wall=time.now.wall + 3600, since_boot=time.now.since_boot + 3600
        )
    strain.look()
    time.run(1)
    fault = strain.reason()
    assert fault is not None
    assert "stood still for 1h 0m" in str(fault) or "stood still for 59m" in str(fault)


FULL = """
mount -t tmpfs -o size=20m tmpfs "$1" && cd "$3" && exec "$2" -c '
import sys
from pathlib import Path
from ci.adapters.strain import Strain
place = Path(sys.argv[1])
strain = Strain({"the store": place}, None)
print(strain.reason())
with (place / "big").open("wb") as file:
    try:
        file.write(bytes(30_000_000))
    except OSError:
        strain.look()
(place / "big").unlink()
fault = strain.reason()
print(type(fault).__name__, fault)
' "$1"
"""


def test_a_disk_that_was_full_for_a_moment(tmp_path: Path) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("no mount namespaces: a disk that was full is not tested")
    argv = [*unshare, "sh", "-c", FULL, "sh", str(tmp_path), sys.executable, str(ROOT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "None",
        f"{DiskFull.__name__} the store was down to 0 MiB while it was built",
    ], done.stderr
