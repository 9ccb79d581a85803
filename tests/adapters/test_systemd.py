"""systemd's two protocols, spoken for real: sockets passed to a child, datagrams read."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ci.adapters import systemd
from tests.fakes.waiting import PATIENCE

# What systemd does between fork and exec: descriptors from 3 on, and its own pid.
ACTIVATE = """
import os, sys
count = int(sys.argv[1])
held = [os.dup(int(number)) for number in sys.argv[2:2 + count]]
held = [os.dup2(one, 100 + place) for place, one in enumerate(held)]
for place, one in enumerate(held):
    os.dup2(one, 3 + place)
    os.close(one)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2 + count]])
"""
SERVE = """
import os, subprocess, sys
from ci.adapters.systemd import listen_sockets
from ci.errors import ConfigurationError
try:
    found = listen_sockets(os.environ)
except ConfigurationError as error:
    sys.exit(str(error))
assert not [name for name in os.environ if name.startswith("LISTEN_")]
assert listen_sockets(os.environ) == {}
for name, listener in sorted(found.items()):
    assert not listener.getblocking() and not listener.get_inheritable()
    listener.setblocking(True)
    connection, _ = listener.accept()
    connection.sendall(f"{name} {listener.fileno()}".encode())
    connection.close()
"""


def activate(
    sockets: Sequence[socket.socket], names: str | None
) -> subprocess.Popen[str]:
    numbers = [str(one.fileno()) for one in sockets]
    environ = dict(os.environ, LISTEN_FDS=str(len(sockets)))
    if names is not None:
        environ["LISTEN_FDNAMES"] = names
    return subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, str(len(sockets)), *numbers, SERVE],
        env=environ,
        pass_fds=[one.fileno() for one in sockets],
        stderr=subprocess.PIPE,
        text=True,
    )


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def ask(address: tuple[str, int]) -> str:
    with socket.create_connection(address, timeout=PATIENCE) as client:
        return client.recv(100).decode()


def test_passed_sockets_are_taken_by_name() -> None:
    with listener() as first, listener() as second:
        child = activate([first, second], "private:public")
        assert ask(first.getsockname()) == "private 3"
        assert ask(second.getsockname()) == "public 4"
        _, errors = child.communicate(timeout=PATIENCE)
        assert (child.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("names", "count", "message"),
    [
        ("web", 1, "systemd passed the socket 'web'; its unit must say FileDescriptor"),
        (None, 1, "systemd passed the socket 'unknown'; its unit must say"),
        ("public:public", 2, "socket 'public' twice; its unit must have one Listen"),
    ],
)
def test_other_names_are_refused(names: str | None, count: int, message: str) -> None:
    sockets = [listener() for _ in range(count)]
    _, errors = activate(sockets, names).communicate(timeout=PATIENCE)
    for one in sockets:
        one.close()
    assert message in errors


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        _, errors = activate([datagrams], "public").communicate(timeout=PATIENCE)
    assert "'public', which does not listen; its unit must use ListenStream=" in errors


def test_sockets_for_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "public"}
    assert systemd.listen_sockets(environ) == {}
    assert environ == {}
    assert systemd.listen_sockets({"PATH": "/bin"}) == {}


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_us(tmp_path: Path, abstract: bool) -> None:
    name = f"@build-server-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        environ = {"NOTIFY_SOCKET": name}
        text = systemd.status("building\nREADY=0 \x1b[31m")
        assert systemd.notify(systemd.READY, text, environ=environ)
        assert manager.recv(4096).decode().split("\n") == [
            "READY=1",
            "STATUS=building\\nREADY=0 \\x1b[31m",
        ]


def test_nobody_hears_us_and_nothing_breaks(tmp_path: Path) -> None:
    assert not systemd.notify(systemd.WATCHDOG, environ={})
    gone = {"NOTIFY_SOCKET": str(tmp_path / "gone")}
    assert not systemd.notify(systemd.STOPPING, environ=gone)
    assert not systemd.notify(systemd.READY, environ={"NOTIFY_SOCKET": "vsock:2:1"})


def test_a_manager_that_does_not_read_does_not_stop_us(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        heard = [
            systemd.notify(systemd.WATCHDOG, environ={"NOTIFY_SOCKET": path})
            for _ in range(2000)
        ]
    assert heard[0]
    assert not heard[-1]


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_or_it_is_not(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert systemd.watchdog_seconds(environ) == seconds
