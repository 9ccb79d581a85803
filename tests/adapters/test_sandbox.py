"""What the code of a commit can reach from inside, tried with the real bubblewrap."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci.adapters.process import Finished, mark, run
from ci.adapters.sandbox import Sandbox, available, system_binds
from tests.fakes.waiting import wait_until

ROOT = Path(__file__).parents[2]
NOBODY = 65534
CANARY = "canary-7f3a9c"


@dataclass(frozen=True)
class FakeNix:
    """What the sandbox asks of a Nix."""

    env: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class House:
    """A state directory with secrets, and the user who runs the sandbox in it."""

    root: Path
    become: tuple[str, ...]

    async def run(self, argv: Sequence[str]) -> Finished:
        """Run as that user, from an environment with a secret in it."""
        env = {"PATH": os.environ["PATH"], "SECRET": CANARY}
        return await run([*self.become, *argv], env=env, timeout=30)

    async def sh(self, script: str, *, network: bool = False) -> str:
        """What the script printed, run as a command build."""
        argv = ["sh", "-c", script]
        checkout = self.root / "checkout"
        sandboxed = Sandbox(shutil.which("bwrap")).command(
            argv, checkout=checkout, network=network
        )
        done = await self.run(sandboxed)
        assert done.code == 0, done
        return done.stdout.decode().strip()

    async def evaluate(self, script: str, memory: int | None = None) -> Finished:
        nix = FakeNix({"NIX_STORE_DIR": "/x"}, writable=(self.root / "store",))
        sandboxed = Sandbox(shutil.which("bwrap")).evaluation(
            ["sh", "-c", script],
            nix=nix,
            readable=[self.root / "mirrors/1"],
            cache=self.root / "cache",
            network=False,
            memory=memory,
        )
        return await self.run(sandboxed)


@pytest.fixture(params=["ourselves", "nobody"])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    # Not below pytest's own directory, which only its owner may enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        root = Path(name)
        for path in ("secrets/token", "mirrors/1/HEAD", "mirrors/2/HEAD", "history"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(CANARY)
        for directory in ("checkout", "cache", "store"):
            (root / directory).mkdir()
        become: tuple[str, ...] = ()
        if request.param == "nobody":
            if os.getuid() != 0 or shutil.which("setpriv") is None:
                pytest.skip("only root can try it as another user")
            user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            become = ("setpriv", *user, "--")
            for owned in (root, *root.rglob("*")):
                os.chown(owned, NOBODY, NOBODY)
        yield House(root, become)


async def test_bubblewrap_works_here() -> None:
    assert await available() == (True, "")


async def test_a_command_sees_its_checkout_and_nothing_of_ours(house: House) -> None:
    places = " ".join(
        str(house.root / place)
        for place in (".", "secrets/token", "mirrors/1/HEAD", "history", "checkout")
    )
    script = f"""
        pwd; env | sort; echo; ls -A /home /tmp /build
        for place in {places} /root /var /run /sys /etc/shadow /etc/ssl/private
        do test -e $place && echo SEEN $place; done
        grep -az [c]{CANARY[1:]} /proc/*/environ /proc/*/cmdline
        find / -xdev -type f -writable 2>/dev/null
        echo processes $(ls -d /proc/[0-9]* | wc -l) $(hostname)
        grep CapBnd /proc/self/status
        ulimit -c
    """
    said = (await house.sh(script)).splitlines()
    assert said[: said.index("")] == [
        "/build",
        "CI=true",
        "HOME=/home/build",
        "LANG=C.UTF-8",
        f"PATH={visible(os.environ['PATH'])}",
        "PWD=/build",
        "USER=build",
    ]
    rest = [line for line in said[said.index("") + 1 :] if line]
    assert rest[:4] == ["/build:", "/home:", "build", "/tmp:"]
    assert rest[-2:] == ["CapBnd:\t0000000000000000", "0"]
    processes, hostname = rest[-3].split()[1:]
    assert int(processes) < 10
    assert hostname == "build"
    assert rest[4:-3] == []


def visible(path: str) -> str:
    places = ("/usr/", "/bin", "/sbin", "/nix/store/", "/run/current-system/")
    return ":".join(part for part in path.split(":") if part.startswith(places))


async def test_a_command_may_write_where_it_works_and_nowhere_else(
    house: House,
) -> None:
    said = await house.sh(
        """
        echo built > /build/out && mkdir -p "$HOME/.cache/x" && echo x > /tmp/x && echo ok
        for place in / /etc /usr /usr/bin /home /proc/sys/kernel /dev/shm/../../nix
        do touch $place/x 2>/dev/null && echo WROTE $place; done
        for setting in /proc/sys/kernel/core_pattern /proc/sys/vm/swappiness
        do sh -c ": >> $setting" 2>/dev/null && echo WROTE $setting; done
        mount -o remount,rw /usr 2>/dev/null && echo REMOUNTED
        chmod u+s /build/out; /usr/bin/stat -c %a /build/out
        """
    )
    assert said.splitlines() == ["ok", "4644"]
    assert (house.root / "checkout/out").read_text() == "built\n"
    assert (house.root / "checkout/out").stat().st_uid == house.root.stat().st_uid


CONNECT = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}' 2>/dev/null && echo REACHED"


async def test_the_network_is_there_only_when_given(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connect = CONNECT.format(port=listener.getsockname()[1])
        assert await house.sh(f"{connect}; test -e /etc/resolv.conf; echo $?") == "1"
        assert await house.sh(f"{connect}; true", network=True) == "REACHED"
        listener.settimeout(0)
        listener.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listener.accept()


async def test_an_evaluation_reads_one_mirror_and_writes_its_cache(
    house: House,
) -> None:
    place = house.root
    done = await house.evaluate(
        f"""
        cat {place}/mirrors/1/HEAD; echo
        touch {place}/mirrors/1/x {place}/cache/x {place}/store/x 2>/dev/null
        ls {place} {place}/mirrors | sort -u
        cat {place}/secrets/token {place}/mirrors/2/HEAD {place}/history 2>/dev/null
        echo $HOME $XDG_CACHE_HOME $NIX_STORE_DIR $PWD
        """
    )
    said = done.stdout.decode().split()
    assert said[0] == CANARY
    listed = {f"{place}:", f"{place}/mirrors:", "1", "cache", "mirrors", "store"}
    assert set(said[1:-4]) == listed
    assert said[-4:] == ["/tmp", f"{place}/cache", "/x", "/tmp"]
    assert (place / "cache/x").exists()
    assert (place / "store/x").exists()
    assert not (place / "mirrors/1/x").exists()


async def test_the_memory_of_an_evaluation_is_limited(house: House) -> None:
    # `tail` must hold the whole of a line without end.
    hungry = "head -c 700000000 /dev/zero | tail -n 1 | wc -c"
    done = await house.evaluate(hungry, memory=300_000_000)
    assert b"memory exhausted" in done.stderr
    assert done.stdout.strip() == b"0"
    done = await house.evaluate("ulimit -v")
    assert done.stdout.strip() == b"unlimited"


async def test_without_bubblewrap_the_environment_is_empty_all_the_same(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox(None, path="/usr/bin:/bin")
    env = mark({"PATH": "/usr/bin:/bin", "SECRET": CANARY}, "one 'two'")
    argv = sandbox.command(
        ["env"], checkout=tmp_path, network=False, env={"COMMIT": "a b"}
    )
    done = await run(argv, env=env, timeout=30)
    found = dict(line.split("=", 1) for line in done.stdout.decode().splitlines())
    assert found.pop("BUILD_SERVER_SPAWN")
    assert found == {
        "BUILD_SERVER_INSTANCE": "one 'two'",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "USER": "build",
        "LANG": "C.UTF-8",
        "CI": "true",
        "COMMIT": "a b",
    }


@pytest.mark.parametrize("prlimit", [shutil.which("prlimit"), None])
async def test_limits_need_no_bubblewrap_and_no_prlimit(
    prlimit: str | None, tmp_path: Path
) -> None:
    sandboxed = Sandbox(None, path="/usr/bin:/bin", prlimit=prlimit).evaluation(
        ["sh", "-c", "ulimit -v; ulimit -c; echo $HOME"],
        nix=FakeNix(),
        readable=[],
        cache=tmp_path,
        network=False,
        memory=2**30,
    )
    done = await run(sandboxed, env={"PATH": "/usr/bin:/bin"}, timeout=30)
    assert done.stdout.decode().split() == [str(2**20), "0", str(tmp_path)]


SERVER = """
import asyncio, os, shutil, sys
from pathlib import Path
from ci.adapters.process import spawn
from ci.adapters.sandbox import Sandbox
async def main():
    script = f"setsid sleep {sys.argv[2]} & echo ready; sleep {sys.argv[2]}"
    argv = Sandbox(shutil.which("bwrap")).command(
        ["sh", "-c", script], checkout=Path(sys.argv[1]), network=False
    )
    async with spawn(argv, env={"PATH": os.environ["PATH"]}) as process:
        print((await process.read()).decode(), end="", flush=True)
        await process.wait()
asyncio.run(main())
"""


async def test_it_dies_with_the_server(tmp_path: Path) -> None:
    seconds = f"7{os.getpid()}"

    def alive() -> str:
        argv = ["pgrep", "--full", "--runstates", "DRST", f"sleep {seconds}"]
        return subprocess.run(argv, capture_output=True, text=True).stdout

    argv = [sys.executable, "-c", SERVER, str(tmp_path), seconds]
    server = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)  # noqa: ASYNC220
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        assert len(alive().split()) >= 3
        server.send_signal(signal.SIGKILL)
    await wait_until(lambda: not alive(), what="the death of the sandbox")


def test_the_programs_of_other_systems_are_found(tmp_path: Path) -> None:
    """Debian links /bin to /usr/bin; NixOS has one program in each, and the store."""
    for name in ("usr/bin", "bin", "lib64", "nix/store"):
        (tmp_path / name).mkdir(parents=True)
    nixos = system_binds(tmp_path)
    shown = {nixos[at + 2] for at, word in enumerate(nixos) if word == "--ro-bind"}
    assert shown == {"/usr", "/bin", "/lib64", "/nix/store"}
    assert "--symlink" not in nixos
    tried = {nixos[at + 2] for at, word in enumerate(nixos) if word == "--ro-bind-try"}
    assert {"/run/current-system", "/etc/static", "/etc/ssl/certs"} <= tried
    assert not any("shadow" in path or "build-server" in path for path in tried)
    (tmp_path / "sbin").symlink_to("usr/sbin")
    assert system_binds(tmp_path)[4:10].count("--symlink") == 1
