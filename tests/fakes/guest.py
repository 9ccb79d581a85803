"""A Linux of its own inside a process, whose control groups are all ours to try.

User-mode Linux runs as an ordinary program and shows this machine's files, read-only.
Nothing outside of it can be changed by what runs in it, were it root ten times.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.tree import CHECKOUT

KERNEL = CHECKOUT / ".cache/user-mode-linux/usr/bin/linux.uml"
SCRIPT = "scripts/user-mode-linux"
# Set in the environment of what runs in the guest.
IN_GUEST = "IN_GUEST"
MEMORY = "2G"
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir /dev/shm
mount -t tmpfs shm /dev/shm
mount -t tmpfs stores CHECKOUT/.cache/test-stores
mount -t cgroup2 cgroup /sys/fs/cgroup
echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
cd CHECKOUT
env -i ENVIRON ARGV </dev/null
echo "GUEST ENDED WITH $?"
echo o >/proc/sysrq-trigger
sleep 60
"""


class GuestMissing(Exception):
    """There is no user-mode Linux here; `str()` says what to do."""


@dataclass(frozen=True)
class Ended:
    """What a program in the guest printed, the kernel's messages among it, and its end."""

    code: int | None
    output: str


def find_kernel() -> Path:
    """The kernel as a program. Raises GuestMissing."""
    found = shutil.which("linux.uml")
    if found is None and KERNEL.exists():
        return KERNEL
    if found is None:
        raise GuestMissing(f"no linux.uml on PATH or at {KERNEL}: run {SCRIPT}")
    return Path(found)


def run_in_guest(
    argv: Sequence[str], *, env: Mapping[str, str], folder: Path, timeout: float
) -> Ended:
    """Boot, run `argv` as root from the checkout, power off.

    `folder` holds the guest's memory meanwhile. Raises GuestMissing, TimeoutExpired.
    """
    kernel = find_kernel()
    init = folder / "init"
    variables = [f"{name}={value}" for name, value in env.items()]
    words = {"CHECKOUT": [str(CHECKOUT)], "ENVIRON": variables, "ARGV": argv}
    text = INIT
    for name, value in words.items():
        text = text.replace(name, shlex.join(value))
    init.write_text(text)
    init.chmod(0o755)
    options = ["rootfstype=hostfs", "rootflags=/", "ro", f"mem={MEMORY}", "quiet"]
    console = ["con=null", "con0=fd:0,fd:1", f"uml_dir={folder}/", f"init={init}"]
    done = subprocess.run(
        [str(kernel), *options, *console],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
    )
    output = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    _, mark, code = output.rpartition("GUEST ENDED WITH ")
    return Ended(int(code.split()[0]) if mark else None, output)
