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

import pytest

from ci.adapters.git import Mirror
from ci.adapters.git.command import fault
from ci.errors import (
    BuildServerError,
    CommitVanished,
    DiskFull,
    HostFault,
    NetworkDown,
)
from tests.fakes.git_http import GitServer, git_server
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
            HostFault, match=r"did not let us in.*github\.token_file"
        ) as e:
            await mirror.fetch_branch("dev")
        assert not isinstance(e.value, NetworkDown)
        assert TOKEN not in str(e.value)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (301, HostFault, "has moved: write its new url"),
        (403, HostFault, r"github\.token_file"),
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


@pytest.fixture
def deaf() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x.git"


async def test_a_remote_out_of_reach_costs_nobody_an_attempt(
    deaf: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = closed.getsockname()[1]
    for url in (
        deaf,
        f"http://127.0.0.1:{refused}/x.git",
        f"ssh://git@127.0.0.1:{refused}/x.git",
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
            HostFault,
        ),
        ("Host key verification failed.\nfatal: Could not read from remote", HostFault),
        ("fatal: the remote end hung up unexpectedly", NetworkDown),
        (
            "fatal: unable to access 'u': OpenSSL SSL_connect: SSL_ERROR_SYSCALL",
            NetworkDown,
        ),
        ("fatal: unable to access 'u': GnuTLS recv error (-110): ...", NetworkDown),
        ("fatal: unable to access 'u': SSL certificate problem: expired", HostFault),
        (
            "fatal: could not read Username for 'https://x': terminal prompts disabled",
            HostFault,
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
