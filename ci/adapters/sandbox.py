"""The bubblewrap profiles: what the code of a commit may see and do on this host.

Everything starts from nothing: no files, no environment, no network, no other process,
no capability. Each profile then shows the system's programs and what the work needs.
On NixOS the programs are in /nix/store; elsewhere in /usr and what it is linked from.
How much a job may take of memory and processes is not decided here: see cells.py.
Options are those of bwrap(1), checked with bubblewrap 0.8 as root and as a user.
"""

from __future__ import annotations

import asyncio
import os
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
)
# Options that bubblewrap learned late (0.7 and 0.8), and what they are used for.
SIZE = "--size"
DISABLE_USERNS = "--disable-userns"
# In a user namespace of its own a program has every capability again, over little, but
# against much more of the kernel.
NO_NAMESPACES = ("--unshare-user", DISABLE_USERNS)
# Directories of the system's programs; where they are links, the same links inside.
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store")
CURRENT_SYSTEM = "/run/current-system"
# Root may write kernel settings even without a capability (sysctl(2) asks for the user
# alone, and `core_pattern` names a program for root to run): they are read-only.
KERNEL = ("--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev")
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
SHARED = "/dev/shm"  # noqa: S108 - as /tmp
# Any directory that everybody has.
TRIAL = Path(TMP)
HOME = "/home/build"
USER = "build"
# Our marks, and what a shell on the way leaves behind.
UNUSED = (INSTANCE, SPAWN, "OLDPWD", "SHLVL", "_")
LANG = "C.UTF-8"
# What lies in memory (/tmp, the home, /dev/shm) when nobody says how much may: bytes, each.
ROOM = 4 * 2**30
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
# What it says where this host is short of something for the moment.
SHORT = ("Resource temporarily unavailable", "Cannot allocate memory")
TRY = "run `bwrap --unshare-all --ro-bind / / true` as the user of the service"
ADVICE = {"proc": MASKED, "namespace": FORBIDDEN, "uid map": FORBIDDEN}


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
class Confined:
    """A command line, and the whole environment to run it with.

    The two are apart because every user of this host can read arguments, and only root
    and ourselves an environment: it may hold what fetches private inputs.
    """

    argv: list[str]
    env: Mapping[str, str]

    def marked(self, env: Mapping[str, str]) -> dict[str, str]:
        """The environment with the mark, if any, that `env` has of this server."""
        return {**self.env, **{k: env[k] for k in (INSTANCE,) if k in env}}


@dataclass(frozen=True)
class Sandbox:
    """Makes command lines that run others confined.

    `bwrap` is the path of the program; None runs them unconfined, with the same small
    environment. `path` is the PATH of the service, of which the visible part is passed
    on; `knows` are the late options that this bubblewrap has.
    """

    bwrap: str | None
    path: str = field(default_factory=lambda: os.environ.get("PATH", os.defpath))
    knows: frozenset[str] = frozenset({SIZE, DISABLE_USERNS})

    def evaluation(
        self,
        argv: Sequence[str],
        *,
        nix: Nix,
        readable: Sequence[Path],
        cache: Path,
        network: bool,
        room: int = ROOM,
    ) -> Confined:
        """For Nix: sees its store and `readable`, writes `cache` (and its own store).

        `room` is how many bytes each directory may hold that lies in memory.
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
        files = self._in_memory(TMP, room)
        files += [
            part for path in shown for part in ("--ro-bind", str(path), str(path))
        ]
        for path in (*nix.writable, cache):
            files += ["--bind", str(path), str(path)]
        files += ["--chdir", TMP]
        return self._confined(argv, variables, files, network)

    def command(
        self,
        argv: Sequence[str],
        *,
        checkout: Path,
        network: bool,
        env: Mapping[str, str] | None = None,
        room: int = ROOM,
    ) -> Confined:
        """For a command of the commit: `checkout` is /build, writable, and its place.

        Without bubblewrap it runs where it is started. `env` adds variables; for `room`
        see `evaluation`.
        """
        variables = {
            "PATH": self._path(()),
            "HOME": HOME if self.bwrap else str(checkout),
            "USER": USER,
            "LANG": LANG,
            "CI": "true",
            **(env or {}),
        }
        files = [*self._in_memory(TMP, room), *self._in_memory(HOME, room)]
        files += ["--bind", str(checkout), BUILD, "--chdir", BUILD]
        return self._confined(argv, variables, files, network, room)

    def _confined(
        self,
        argv: Sequence[str],
        variables: Mapping[str, str],
        files: Sequence[str],
        network: bool,
        room: int = ROOM,
    ) -> Confined:
        if self.bwrap is None:
            return Confined(list(argv), variables)
        options = [*ISOLATED, "--dir", "/etc", *_SYSTEM, *KERNEL]
        if DISABLE_USERNS in self.knows:
            options += NO_NAMESPACES
        # The directory of devices lies in memory too, without a limit: only this part
        # of it can be written.
        options += [*self._in_memory(SHARED, room), "--remount-ro", "/dev"]
        if network:
            options.append("--share-net")
            for path in NETWORK:
                options += ["--ro-bind-try", path, path]
        # For bubblewrap itself; what runs inside has no use for them.
        for name in UNUSED:
            options += ["--unsetenv", name]
        options += [*files, "--remount-ro", "/"]
        return Confined([self.bwrap, *options, "--", *argv], variables)

    def _in_memory(self, path: str, room: int) -> list[str]:
        """Options for an empty directory that holds at most `room` bytes."""
        limit = [SIZE, str(room)] if SIZE in self.knows else []
        return [*limit, "--tmpfs", path]

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


async def find(path: str | None = None) -> tuple[Sandbox | None, str]:
    """The sandbox that works here; None, and why not and what to do.

    `path` is where `bwrap` is looked for: PATH when None. Raises HostFault when this
    host let the trial down, which says nothing about the next one.
    """
    bwrap = await asyncio.to_thread(shutil.which, "bwrap", path=path)
    if bwrap is None:
        return None, "bubblewrap (`bwrap`) is not installed, or not on our PATH"
    try:
        told = await run([bwrap, "--help"], env={}, timeout=TRIAL_SECONDS)
        knows = frozenset(told.stdout.decode().split()) & {SIZE, DISABLE_USERNS}
        complaint = await _trial(Sandbox(bwrap, knows=knows))
        if complaint and DISABLE_USERNS in knows:
            knows -= {DISABLE_USERNS}
            complaint = await _trial(Sandbox(bwrap, knows=knows))
    except TimeoutError as error:
        raise HostFault(str(error)) from error
    if not complaint:
        return Sandbox(bwrap, knows=knows), ""
    advice = next((text for word, text in ADVICE.items() if word in complaint), TRY)
    return None, f"bubblewrap does not work here ({complaint}): {advice}"


async def available() -> tuple[bool, str]:
    """Whether bubblewrap works here; if not, why and what to do."""
    try:
        found, why = await find()
    except HostFault as error:
        return False, str(error)
    return found is not None, why


async def _trial(sandbox: Sandbox) -> str:
    """What bubblewrap says against running anything here; empty when it does."""
    argv = ["/bin/sh", "-c", ":"]
    trial = sandbox.command(argv, checkout=TRIAL, network=False)
    done = await run(trial.argv, env=trial.env, timeout=TRIAL_SECONDS)
    if done.code == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip() or f"exit code {done.code}"
    if done.code < 0 or any(words in said for words in SHORT):
        raise HostFault(f"bubblewrap could not be tried: {said}")
    return said
