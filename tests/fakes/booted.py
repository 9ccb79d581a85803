"""A systemd of our own: process 1 of a namespace, with units of a test and nothing else.

The real systemd of this machine, in namespaces for processes, mounts, network, names and
control groups. Its /run and /var/lib are empty and end with it. It needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.fakes.tree import CHECKOUT

SYSTEMD = Path("/usr/lib/systemd/systemd")
LIMIT = 120.0
USER = "build-server"
# Before systemd: what a machine has when its kernel starts process 1.
INIT = """\
set -e
mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up
for file in passwd group; do cp /etc/$file {work}/$file; done
echo '{user}:x:990:990::/var/lib/{user}:/usr/sbin/nologin' >> {work}/passwd
echo '{user}:x:990:' >> {work}/group
for file in passwd group; do mount --bind {work}/$file /etc/$file; done
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
for place in /run /srv /var/lib; do mount -t tmpfs -o mode=755 tmpfs $place; done
mkdir -p /run/systemd /run/test
cp -r {work}/units /run/systemd/system
{prepare}
# systemd hands credentials over by mounts that must spread.
mount --make-rshared /
exec env -i container=test SYSTEMD_UNIT_PATH=/run/systemd/system:/lib/systemd/system \\
  PATH="$PATH" {systemd} --system --unit=test.target --show-status=0
"""
TARGET = "[Unit]\nDefaultDependencies=no\n"


class CannotBoot(Exception):
    """There is no systemd to be had here; `str()` says why."""


class Booted:
    """Use as a context manager. `units` are files by name; `prepare` is shell, as root.

    What the shell says goes to the file `said`; a service must be told to append to it.
    """

    def __init__(self, work: Path, units: Mapping[str, str], prepare: str = "") -> None:
        needed = ("unshare", "nsenter", "ip", "systemctl", "mount")
        missing = [name for name in needed if not shutil.which(name)]
        if os.geteuid() != 0:
            raise CannotBoot("only root can make its namespaces")
        if missing or not SYSTEMD.exists():
            raise CannotBoot(f"{missing or SYSTEMD} is not here")
        self.said = work / "said"
        self._init = work / "init"
        (work / "units").mkdir(parents=True)
        for name, text in {**units, "test.target": TARGET}.items():
            (work / "units" / name).write_text(text)
        self._init.write_text(
            INIT.format(work=work, prepare=prepare, systemd=SYSTEMD, user=USER)
        )

    def __enter__(self) -> Booted:
        unshare = ["unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net"]
        with self.said.open("ab") as said:
            self._outside = subprocess.Popen(
                [*unshare, "--fork", "--kill-child", "bash", str(self._init)],
                stdout=said,
                stderr=said,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._outside.kill()
        self._outside.wait()

    @property
    def up(self) -> bool:
        """Whether systemd answers; raises CannotBoot when it never will."""
        if self._outside.poll() is not None:
            raise CannotBoot(f"systemd does not start here: {self.said.read_text()}")
        return self._first is not None and self.run(
            "systemctl", "is-system-running"
        ) in (
            "running\n",
            "degraded\n",
        )

    @property
    def _first(self) -> int | None:
        """The process that is number 1 inside."""
        outside = self._outside.pid
        children = Path(f"/proc/{outside}/task/{outside}/children").read_text().split()
        return int(children[0]) if children else None

    def run(self, *argv: str) -> str:
        """What a command inside prints; its exit code does not count."""
        inside = ["nsenter", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net"]
        done = subprocess.run(
            [*inside, "--target", str(self._first), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT,
        )
        return done.stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit, as `systemctl show` has them."""
        wanted = f"--property={','.join(properties)}"
        lines = self.run("systemctl", "show", wanted, unit).splitlines()
        return dict(line.split("=", 1) for line in lines)


def visible(
    paths: Sequence[Path] = (Path(sys.base_prefix), Path(sys.prefix), CHECKOUT),
) -> str:
    """Lines of a unit that show this Python, which may be in somebody's home."""
    return "".join(f"BindReadOnlyPaths={path}\n" for path in paths)
