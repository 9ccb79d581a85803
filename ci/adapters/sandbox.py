"""The bubblewrap profiles: what the code of a commit may see and do on this host.

Everything starts from nothing: no files, no environment, no network, no other process,
no capability. Each profile then shows the system's programs and what the work needs.
On NixOS the programs are in /nix/store; elsewhere in /usr and what it is linked from.
Options are those of bwrap(1), checked with bubblewrap 0.8 as root and as a user.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ci.adapters.process import INSTANCE, run
from ci.adapters.process.child import SPAWN
from ci.errors import HostFault

TMP = "/tmp"  # noqa: S108 - each sandbox has one of its own
# `--cap-drop` matters as root: without it a read-only bind could be mounted writable.
ISOLATED = (
    "--unshare-all",
    "--die-with-parent",
    "--new-session",
    *("--cap-drop", "ALL"),
    *("--hostname", "build"),
    "--clearenv",
)
# Directories of the system's programs; where they are links, the same links inside.
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store")
CURRENT_SYSTEM = "/run/current-system"
# Root may write kernel settings even without a capability (sysctl(2) asks for the user
# alone, and `core_pattern` names a program for root to run): they are read-only.
KERNEL = (
    *("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"),
    *("--dev", "/dev", "--tmpfs", TMP),
)
# What programs look up, and no more of /etc: the keys beside the certificates are
# secret. `static` is what NixOS links the others to, in its store.
SETTINGS = (
    *("alternatives", "fonts", "group", "host.conf", "hosts", "ld.so.cache"),
    *("ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf"),
    *("os-release", "passwd", "perl", "protocols", "python3", "services", "static"),
    *("ssl/certs", "ssl/openssl.cnf", "timezone"),
    *("pki/ca-trust/extracted", "pki/tls/cert.pem", "pki/tls/certs"),
)
# Resolvers and their sockets, for those that may use the network.
NETWORK = ("/etc/gai.conf", "/etc/resolv.conf", "/run/nscd")
BUILD = "/build"
TRIAL = Path("/dev/shm")  # noqa: S108 - any directory that everybody has
HOME = "/home/build"
USER = "build"
LANG = "C.UTF-8"
# More than a parallel compiler needs; the kernel does not count root's.
PROCESSES = 4096
TRIAL_SECONDS = 20.0
FORBIDDEN = (
    "in a systemd unit, take out RestrictNamespaces; else the kernel forbids it: set "
    "user.max_user_namespaces, kernel.unprivileged_userns_clone=1 or (Ubuntu) "
    "kernel.apparmor_restrict_unprivileged_userns=0 with sysctl"
)
MASKED = (
    "in a systemd unit, take out ProtectKernelTunables, ProtectKernelLogs, ProtectProc "
    "and ProcSubset; in a container, give it its own /proc"
)
TRY = "run `bwrap --unshare-all --ro-bind / / true` as the user of the service"
ADVICE = {"proc": MASKED, "namespace": FORBIDDEN, "uid map": FORBIDDEN}

_PRLIMIT = shutil.which("prlimit")


class Nix(Protocol):
    """What the sandbox must know of a Nix: see NixEnvironment."""

    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def readable(self) -> Sequence[Path]: ...
    @property
    def writable(self) -> Sequence[Path]: ...


def system_binds(root: Path = Path("/")) -> tuple[str, ...]:
    """Options that show the programs of the system below `root`, read-only."""
    return tuple(_system_binds(root))


def _system_binds(root: Path) -> Iterator[str]:
    for name in SYSTEM:
        path = root / name
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), f"/{name}")
        elif path.is_dir():
            yield from ("--ro-bind", str(path), f"/{name}")
    # Resolved anew for each sandbox: switching a NixOS configuration moves the link.
    yield from ("--ro-bind-try", CURRENT_SYSTEM, CURRENT_SYSTEM)
    for name in SETTINGS:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")


_SYSTEM = system_binds()


@dataclass(frozen=True)
class Sandbox:
    """Makes command lines that run others confined.

    `bwrap` is the path of the program; None runs them unconfined, with the same emptied
    environment. `path` is the PATH of the service, of which the visible part is passed on;
    `prlimit` is the program that sets limits, without which a shell sets the memory's.
    """

    bwrap: str | None
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    prlimit: str | None = _PRLIMIT

    def evaluation(
        self,
        argv: Sequence[str],
        *,
        nix: Nix,
        readable: Sequence[Path],
        cache: Path,
        network: bool,
        memory: int | None,
    ) -> list[str]:
        """For Nix: sees its store and `readable`, writes `cache` (and its own store).

        `memory` is the most bytes of address space that it may have.
        """
        shown = [*nix.readable, *readable]
        variables = {
            "PATH": self._path(shown),
            "HOME": TMP if self.bwrap else str(cache),
            "USER": USER,
            "LANG": LANG,
            "XDG_CACHE_HOME": str(cache),
            **nix.env,
        }
        files = [part for path in shown for part in ("--ro-bind", str(path), str(path))]
        for path in (*nix.writable, cache):
            files += ["--bind", str(path), str(path)]
        files += ["--chdir", TMP]
        return self._limited(self._confined(argv, variables, files, network), memory)

    def command(
        self,
        argv: Sequence[str],
        *,
        checkout: Path,
        network: bool,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """For a command of the commit: `checkout` is /build, writable, and its place.

        Without bubblewrap it runs where it is started. `env` adds variables.
        """
        variables = {
            "PATH": self._path(()),
            "HOME": HOME if self.bwrap else str(checkout),
            "USER": USER,
            "LANG": LANG,
            "CI": "true",
            **(env or {}),
        }
        files = ["--tmpfs", HOME, "--bind", str(checkout), BUILD, "--chdir", BUILD]
        return self._limited(self._confined(argv, variables, files, network), None)

    def _confined(
        self,
        argv: Sequence[str],
        variables: Mapping[str, str],
        files: Sequence[str],
        network: bool,
    ) -> list[str]:
        if self.bwrap is None:
            return [*_EMPTY, *(f"{k}={v}" for k, v in variables.items()), *argv]
        options = [*ISOLATED, "--dir", "/etc", *_SYSTEM, *KERNEL]
        if network:
            options.append("--share-net")
            for path in NETWORK:
                options += ["--ro-bind-try", path, path]
        for name, value in variables.items():
            options += ["--setenv", name, value]
        options += [*files, "--remount-ro", "/"]
        # Inside, bubblewrap is process 1, whose first environment all may read.
        return [*_EMPTY, self.bwrap, *options, "--", *argv]

    def _path(self, shown: Iterable[Path]) -> str:
        """The directories of PATH that exist inside as well."""
        directories = self.path.split(":")
        if self.bwrap is not None:
            roots = [*(f"/{name}" for name in SYSTEM), CURRENT_SYSTEM, *map(str, shown)]
            directories = [
                directory
                for directory in directories
                if any(directory == r or directory.startswith(f"{r}/") for r in roots)
            ]
        return ":".join(directories) or os.defpath

    def _limited(self, argv: list[str], memory: int | None) -> list[str]:
        """No core files, no endless forks, no more than `memory` bytes of address space.

        Set before bubblewrap starts: inside, the program that sets limits may be missing.
        """
        most = memory and _within(resource.RLIMIT_AS, memory)
        if self.prlimit is None:
            memory_limit = f"ulimit -v {most // 1024}; " if most else ""
            script = f'ulimit -c 0; {memory_limit}exec "$@"'
            return ["/bin/sh", "-c", script, "sh", *argv]
        processes = _within(resource.RLIMIT_NPROC, PROCESSES)
        limits = ["--core=0", f"--nproc={processes}"]
        if most:
            limits.append(f"--as={most}")
        return [self.prlimit, *limits, "--", *argv]


# `env -i`, but for the marks by which our own processes are found.
_EMPTY = (
    "/bin/sh",
    "-c",
    "exec /usr/bin/env -i "
    + " ".join(f'${{{name}+"{name}=${name}"}}' for name in (INSTANCE, SPAWN))
    + ' "$@"',
    "sh",
)


def _within(kind: int, wanted: int) -> int:
    """`wanted`, or our own hard limit: only a privileged process may go above it."""
    hard = resource.getrlimit(kind)[1]
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


async def available() -> tuple[bool, str]:
    """Whether bubblewrap works here; if not, why and what to do."""
    bwrap = await asyncio.to_thread(shutil.which, "bwrap")
    if bwrap is None:
        return False, "bubblewrap (`bwrap`) is not installed, or not on our PATH"
    argv = Sandbox(bwrap).command(["/bin/sh", "-c", ":"], checkout=TRIAL, network=False)
    try:
        done = await run(argv, env={}, timeout=TRIAL_SECONDS)
    except (HostFault, TimeoutError) as error:
        return False, str(error)
    if done.code == 0:
        return True, ""
    said = done.stderr.decode(errors="replace").strip() or f"exit code {done.code}"
    advice = next((text for word, text in ADVICE.items() if word in said), TRY)
    return False, f"bubblewrap does not work here ({said}): {advice}"
