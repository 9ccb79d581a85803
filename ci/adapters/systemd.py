"""What systemd passes to a service and wants to hear from it.

Two small protocols, both of environment variables and descriptors: sd_notify(3) and
sd_listen_fds(3). Without systemd every function here does nothing and says so.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping

from ci.errors import ConfigurationError
from ci.text import printable

FIRST_DESCRIPTOR = 3
SOCKET_NAMES = frozenset({"public", "private"})

READY = "READY=1"
STOPPING = "STOPPING=1"
WATCHDOG = "WATCHDOG=1"


def reloading() -> str:
    """Says that a reload begins; the READY that follows ends it (Type=notify-reload)."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return f"RELOADING=1\nMONOTONIC_USEC={microseconds}"


def status(text: str) -> str:
    """The assignment that shows `text` in `systemctl status`."""
    return f"STATUS={printable(text)}"


def notify(*assignments: str, environ: Mapping[str, str]) -> bool:
    """Tell systemd; False when nobody listens (no NOTIFY_SOCKET, or it is gone).

    `assignments` are READY, STOPPING, WATCHDOG or come from `reloading` or `status`.
    Never blocks: a service must not stand still because its manager does.
    """
    name = environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    # A leading @ stands for the NUL of Linux's abstract names.
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
        try:
            out.sendto("\n".join(assignments).encode(), address)
        except OSError:
            return False
    return True


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often WATCHDOG must be sent at least (WatchdogSec=); None: not at all."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        seconds = int(environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    except ValueError:
        return None
    return seconds if seconds > 0 else None


def listen_sockets(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """The listening sockets that systemd opened for us, by FileDescriptorName=.

    Names are `public` and `private`. The variables are taken out of `environ`, so that
    no program started later takes the descriptors for its own. Raises
    ConfigurationError for other names, two sockets of one name, or what is no listening
    stream socket.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    named = names.split(":") if names else []
    named += ["unknown"] * (len(descriptors) - len(named))
    found: dict[str, socket.socket] = {}
    problems: list[str] = []
    for descriptor, name in zip(descriptors, named, strict=False):
        problem = _problem(descriptor, name, found)
        if problem:
            problems.append(problem)
        else:
            found[name] = _listener(descriptor)
    if problems:
        raise ConfigurationError(problems)
    return found


def _listener(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    return listener


def _problem(
    descriptor: int, name: str, found: Mapping[str, socket.socket]
) -> str | None:
    about = f"systemd passed the socket {printable(name)!r}"
    if name not in SOCKET_NAMES:
        return (
            f"{about}; its unit must say FileDescriptorName=public or "
            "FileDescriptorName=private"
        )
    if name in found:
        return f"{about} twice; its unit must have one ListenStream= only"
    try:
        os.set_inheritable(descriptor, False)
        with socket.socket(fileno=os.dup(descriptor)) as probe:
            listening = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        listening = 0
    if not listening:
        return f"{about}, which does not listen; its unit must use ListenStream="
    return None
