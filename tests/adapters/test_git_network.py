"""What git says about networks, passwords and full disks, and what we make of it."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ci.adapters.git import Mirror
from ci.adapters.git.command import fault
from ci.errors import (
    BuildServerError,
    CommitVanished,
    DiskFull,
    HostFault,
    NetworkDown,
    RemoteRefused,
)
from tests.fakes.git_http import GitServer, git_server
from tests.fakes.proxy import Babble, Drip, fault_proxy
from tests.fakes.repository import Origin

ROOT = Path(__file__).parents[2]
TOKEN = "ghp_canary0123456789"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[GitServer]:
    origin = Origin(tmp_path / "origin.git")
    origin.commit({f"f{number}": os.urandom(1000) for number in range(20)})
    async with git_server(origin) as running:
        yield running


def mirror_of(
    url: str, tmp_path: Path, token: str | None = None, stall: int = 60
) -> Mirror:
    async def current() -> str | None:
        return token

    return Mirror(tmp_path / "mirror", url, token=current, stall=stall)


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True)


def command_lines() -> bytes:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return b"\n".join(lines)


async def test_the_credential_reaches_the_origin_and_no_command_line(
    server: GitServer, tmp_path: Path
) -> None:
    server.password = TOKEN
    server.hold.clear()
    mirror = mirror_of(server.url, tmp_path, TOKEN)
    sha = server.origin.head()
    fetching = asyncio.create_task(mirror.fetch_commit(sha, 1))
    await server.asked.wait()
    seen = await asyncio.to_thread(command_lines)
    server.hold.set()
    await fetching
    assert (await mirror.commit(sha)).sha == sha
    assert await mirror.remote_refs(["dev"]) == {"dev": sha}
    secrets = [TOKEN.encode(), base64.b64encode(f"x-access-token:{TOKEN}".encode())]
    assert server.url.encode() in seen
    for secret in secrets:
        assert secret not in seen
        for path in mirror.path.rglob("*"):
            assert path.is_dir() or secret not in path.read_bytes()


async def test_a_refused_credential_is_named(server: GitServer, tmp_path: Path) -> None:
    server.password = TOKEN
    for token in (None, "wrong"):
        mirror = mirror_of(server.url, tmp_path, token)
        with pytest.raises(
            RemoteRefused, match=r"did not let us in.*github\.token_file"
        ) as e:
            await mirror.fetch_branch("dev")
        assert TOKEN not in str(e.value)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (301, HostFault, "has moved: write its new url"),
        (403, RemoteRefused, r"github\.token_file"),
        (404, HostFault, "there is no repository at"),
        (429, NetworkDown, "could not be reached"),
        (500, NetworkDown, "could not be reached"),
        (503, NetworkDown, "could not be reached"),
    ],
)
async def test_http_answers(
    status: int,
    kind: type[HostFault],
    words: str,
    server: GitServer,
    tmp_path: Path,
) -> None:
    server.status = status
    mirror = mirror_of(server.url, tmp_path, TOKEN)
    with pytest.raises(HostFault, match=words) as caught:
        await mirror.remote_refs(["dev"])
    assert type(caught.value) is kind
    assert not any("elsewhere" in request for request in server.requests)


def answer(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/html\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


NO_GIT: dict[str, bytes] = {
    "nothing": answer(b""),
    "a line": answer(b"<html>Please log in</html>"),
    "a page": answer(b"<!DOCTYPE html>\n<title>Hotel</title>\n<p>Please\tlog in\n"),
    "no HTTP": b"220 mail.example.org ESMTP\r\n",
    "noise": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("name", NO_GIT)
async def test_what_is_no_git_server_is_not_believed(
    name: str, server: GitServer, tmp_path: Path
) -> None:
    """A login page in between says neither that a branch nor that a commit is gone."""
    port = urlsplit(server.url).port
    assert port is not None
    async with fault_proxy(port) as network:
        mirror = mirror_of(network.url(server.url), tmp_path)
        known = server.origin.head()
        await mirror.fetch_commit(known, 1)
        new = server.origin.commit({"new": "x"})
        network.fault = Babble(piece=NO_GIT[name], times=1)
        for ask in (
            mirror.remote_refs(["dev"]),
            mirror.fetch_branch("dev"),
            mirror.fetch_commit(new, 2),
        ):
            with pytest.raises(NetworkDown):
                await ask
        # Nor is it a reason to throw away what is here.
        assert (await mirror.commit(known)).sha == known
        await network.cure()
        await mirror.fetch_commit(new, 2)
        assert await mirror.remote_refs(["dev", "no-such"]) == {"dev": new}


@pytest.mark.faults
async def test_a_pack_that_drips_is_given_up(server: GitServer, tmp_path: Path) -> None:
    port = urlsplit(server.url).port
    assert port is not None
    async with fault_proxy(port) as network:
        mirror = mirror_of(network.url(server.url), tmp_path, stall=1)
        network.fault = Drip(after=5000, rate=200)
        with pytest.raises(NetworkDown, match="Operation too slow"):
            await mirror.fetch_commit(server.origin.head(), 1)
        await network.cure()
        # A good network, too, may say nothing for a second.
        patient = mirror_of(network.url(server.url), tmp_path)
        await patient.fetch_commit(server.origin.head(), 1)


NO_ROUTE = """
cd "$1" && exec "$2" -c '
import asyncio, sys
from pathlib import Path
from ci.adapters.git import Mirror
from ci.errors import NetworkDown
async def main():
    for number, url in enumerate(sys.argv[2:]):
        mirror = Mirror(Path(sys.argv[1], str(number)), url)
        for ask in (mirror.remote_refs(["dev"]), mirror.fetch_commit("7" * 40, 1)):
            try:
                await ask
            except NetworkDown as error:
                print(error)
asyncio.run(main())
' "$3" https://192.0.2.7/x.git https://github.example/x.git ssh://git@192.0.2.7/x.git
"""


async def test_a_host_without_any_network(tmp_path: Path) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--net")
    if not shutil.which("unshare") or program(*unshare, "true").returncode != 0:
        pytest.skip("no network namespace here: a host without a route is not tested")
    script = ("sh", "-c", NO_ROUTE, "sh", str(ROOT), sys.executable, str(tmp_path))
    done = await asyncio.to_thread(program, *unshare, *script)
    lines = done.stdout.splitlines()
    assert len(lines) == 6, done
    assert all("could not be reached" in line for line in lines)


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.git"


async def test_a_remote_out_of_reach_costs_nobody_an_attempt(
    deaf: str, nowhere: str, tmp_path: Path
) -> None:
    for url in (
        deaf,
        f"{nowhere}/x.git",
        f"{nowhere.replace('http://', 'ssh://git@')}/x.git",
        "https://no-such-host.invalid/x.git",
    ):
        mirror = mirror_of(url, tmp_path, stall=1)
        with pytest.raises(NetworkDown, match="could not be reached") as caught:
            await mirror.fetch_commit("7" * 40, 1)
        assert not caught.value.counted


async def test_a_connection_cut_anywhere_is_the_networks_fault_and_leaves_no_harm(
    server: GitServer, tmp_path: Path
) -> None:
    mirror = mirror_of(server.url, tmp_path)
    sha = server.origin.head()
    for cut in (0, 1, 4, 50, 200, 1000, 4000):
        server.cut = cut
        with pytest.raises(NetworkDown):
            await mirror.fetch_commit(sha, 1)
    server.cut = None
    await mirror.fetch_commit(sha, 1)
    assert (
        program("git", f"--git-dir={mirror.path}", "fsck", "--strict").returncode == 0
    )


async def test_a_fetch_cut_off_by_us_leaves_no_git_and_no_lock(
    server: GitServer, tmp_path: Path
) -> None:
    server.hold.clear()
    mirror = mirror_of(server.url, tmp_path)
    sha = server.origin.head()
    fetching = asyncio.create_task(mirror.fetch_commit(sha, 1))
    await server.asked.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert str(mirror.path).encode() not in await asyncio.to_thread(command_lines)
    server.hold.set()
    await mirror.fetch_commit(sha, 1)


FULL_DISK = """
mount -t tmpfs -o size=300k tmpfs "$1" && cd "$3" && exec "$2" -c '
import asyncio, sys
from pathlib import Path
from ci.adapters.git import Mirror
from ci.errors import DiskFull
url, sha, place = sys.argv[1], sys.argv[2], Path(sys.argv[3])
async def main():
    for path, into in ((place / "mirror", place / "files"), (place.parent / "m", place)):
        try:
            mirror = Mirror(path, url)
            await mirror.fetch_commit(sha, 1)
            await mirror.checkout(sha, into)
        except DiskFull as error:
            print(error)
asyncio.run(main())
' "$4" "$5" "$1"
"""


async def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if not shutil.which("unshare") or program(*unshare, "true").returncode != 0:
        pytest.skip("a small disk needs user namespaces, which this host refuses")
    origin = Origin(tmp_path / "origin")
    sha = origin.commit({"big": os.urandom(500_000)})
    small = tmp_path / "small"
    small.mkdir()
    script = ("sh", "-c", FULL_DISK, "sh", str(small), sys.executable, str(ROOT))
    done = program(*unshare, *script, origin.url, sha)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    assert lines[0].startswith("no room for git's mirror: ")
    assert lines[1].startswith("the files cannot be written to ")


ENDLESS_PACK = """
mount -t tmpfs -o size=300m tmpfs "$1" && cd "$3" && exec "$2" -c '
import asyncio, sys
from pathlib import Path
from ci.adapters.git import Mirror
from ci.errors import DiskFull
from tests.fakes.endless import endless_remote
place = Path(sys.argv[1])
def used():
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
async def main():
    async with endless_remote() as url:
        mirror = Mirror(place / "mirror", url)
        try:
            await mirror.fetch_commit("7" * 40, 1)
        except DiskFull as error:
            print(error)
            print(used() < 100_000)
asyncio.run(main())
' "$1"
"""


@pytest.mark.faults
async def test_a_pack_without_end_takes_half_of_the_disk_at_most(
    tmp_path: Path,
) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--mount")
    if not shutil.which("unshare") or program(*unshare, "true").returncode != 0:
        pytest.skip("a small disk needs user namespaces, which this host refuses")
    small = tmp_path / "small"
    small.mkdir()
    script = ("sh", "-c", ENDLESS_PACK, "sh", str(small), sys.executable, str(ROOT))
    done = await asyncio.to_thread(program, *unshare, *script)
    said, *rest = done.stdout.splitlines() or [""]
    assert "sends more than half of what is free" in said, done
    assert rest == ["True"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("fatal: remote error: upload-pack: not our ref 1234", CommitVanished),
        (
            "error: Server does not allow request for unadvertised object 12",
            CommitVanished,
        ),
        ("fatal: couldn't find remote ref refs/heads/x", CommitVanished),
        ("fatal: write error: No space left on device", DiskFull),
        ("ssh: Could not resolve hostname x: Name or service not known", NetworkDown),
        ("ssh: connect to host x port 22: Connection timed out", NetworkDown),
        (
            "git@x: Permission denied (publickey).\nfatal: Could not read from",
            RemoteRefused,
        ),
        (
            "Host key verification failed.\nfatal: Could not read from remote",
            RemoteRefused,
        ),
        ("fatal: the remote end hung up unexpectedly", NetworkDown),
        (
            "fatal: unable to access 'u': OpenSSL SSL_connect: SSL_ERROR_SYSCALL",
            NetworkDown,
        ),
        ("fatal: unable to access 'u': GnuTLS recv error (-110): ...", NetworkDown),
        ("fatal: unable to access 'u': SSL certificate problem: expired", NetworkDown),
        (
            "fatal: could not read Username for 'https://x': terminal prompts disabled",
            RemoteRefused,
        ),
        ("remote: Repository not found.\nfatal: repository 'u' not found", HostFault),
        ("fatal: fsck error in packed object", HostFault),
        ("", HostFault),
    ],
)
def test_messages_of_git_and_ssh(said: str, kind: type[BuildServerError]) -> None:
    assert type(fault(said, "https://example.org/x.git")) is kind


def test_a_remote_cannot_speak_to_the_terminal() -> None:
    error = fault("remote: hi\nfatal: \x1b[2J\x1b]0;title\x07bad\u202e\x9b", "u")
    assert str(error) == "git failed: [2J]0;titlebad"
