"""What the code of a commit can reach from inside, tried with the real bubblewrap."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ci.adapters.process import Finished, mark, run
from ci.adapters.sandbox import (
    ROOM,
    Confined,
    Sandbox,
    available,
    find,
    system_binds,
)
from ci.errors import HostFault
from tests.fakes.waiting import PATIENCE, wait_until

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

    async def run(self, confined: Confined) -> Finished:
        """Run as that user, marked by a server that has a secret in its environment."""
        server = mark({"SECRET": CANARY, "CREDENTIALS_DIRECTORY": CANARY}, "server")
        argv = [*self.become, "/bin/sh", "-c", 'exec "$@"', "sh", *confined.argv]
        return await run(argv, env=confined.marked(server), timeout=PATIENCE)

    async def sh(self, script: str, *, network: bool = False, room: int = ROOM) -> str:
        """What the script printed, run as a command build."""
        argv = ["sh", "-c", script]
        checkout = self.root / "checkout"
        confined = Sandbox(shutil.which("bwrap")).command(
            argv, checkout=checkout, network=network, room=room
        )
        done = await self.run(confined)
        assert done.code == 0, done
        return done.stdout.decode().strip()

    async def evaluate(self, script: str, **env: str) -> Finished:
        env = {"NIX_STORE_DIR": "/x", **env}
        nix = FakeNix(env, writable=(self.root / "store",))
        confined = Sandbox(shutil.which("bwrap")).evaluation(
            ["sh", "-c", script],
            nix=nix,
            readable=[self.root / "mirrors/1"],
            cache=self.root / "cache",
            network=False,
        )
        return await self.run(confined)


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


@pytest.mark.parametrize(
    ("ends", "what"),
    [
        ("echo 'bwrap: Creating new namespace failed: No space left' >&2; exit 1", ""),
        (
            "echo 'bwrap: fork: Resource temporarily unavailable' >&2; exit 1",
            "Resource temporarily unavailable",
        ),
        ("kill -9 $$", "exit code -9"),
    ],
)
async def test_a_host_that_is_short_of_something_does_not_condemn_it(
    tmp_path: Path, ends: str, what: str
) -> None:
    """What forbids it is for a person to change; what fails once is tried again."""
    bwrap = tmp_path / "bwrap"
    bwrap.write_text(f'#!/bin/sh\n[ "$1" = --help ] || {{ {ends}; }}\n')
    bwrap.chmod(0o755)
    if what:
        with pytest.raises(HostFault, match=what):
            await find(str(tmp_path))
    else:
        found, why = await find(str(tmp_path))
        assert found is None
        assert "take out RestrictNamespaces" in why


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


async def test_what_lies_in_memory_has_an_end(house: House) -> None:
    """Else three directories could fill half of the memory each."""
    said = await house.sh(
        """
        for place in /tmp $HOME /dev/shm
        do head -c 3000000 /dev/zero 2>/dev/null > $place/x; stat -c %s $place/x; done
        touch /dev/x 2>/dev/null || echo no other place
        """,
        room=2**20,
    )
    assert said.split("\n") == [*3 * [str(2**20)], "no other place"]


async def test_a_variable_is_no_argument_that_all_users_can_read(house: House) -> None:
    """The configuration of Nix may hold the tokens that fetch private inputs."""
    script = "cat /proc/[0-9]*/cmdline; echo; echo $NIX_CONFIG"
    done = await house.evaluate(script, NIX_CONFIG=f"access-tokens = x={CANARY}")
    arguments, variable = done.stdout.decode().strip().rsplit("\n", 1)
    assert "--unshare-all" in arguments, "bubblewrap's own arguments are seen"
    assert CANARY not in arguments
    assert variable == f"access-tokens = x={CANARY}"


HOSTILE = """
unshare --user true 2>/dev/null && echo A NAMESPACE
unshare --user --map-root-user --net true 2>/dev/null && echo A NETWORK
mount -t tmpfs none /tmp 2>/dev/null && echo MOUNTED
mount --bind /usr /tmp 2>/dev/null && echo BOUND
mknod /tmp/disk b 254 0 2>/dev/null && echo A DEVICE
for secret in /dev/mem /dev/kmsg /dev/sda /dev/vda /proc/kcore /sys/kernel /proc/1/root/root
do head -c 1 $secret 2>/dev/null | grep -q . && echo READ $secret; done
find /proc -type f -writable -not -path '/proc/[0-9]*' -not -path '/proc/pressure/*' \
  -not -path /proc/mtrr -not -path '/proc/*self/*' 2>/dev/null
find / -xdev -perm -4000 -newer /proc/1 2>/dev/null
kill -9 1; test -d /proc/1 && echo 1 lives
su root -c id </dev/null 2>/dev/null; sudo -n id 2>/dev/null
cat /proc/1/status | grep -i nonewprivs
"""


async def test_nothing_of_the_kernel_is_open_to_it(house: House) -> None:
    """No namespaces, mounts, devices, memory, settings, other users."""
    said = await house.sh(HOSTILE)
    assert said.split("\n") == ["1 lives", "NoNewPrivs:\t1"]


async def test_without_bubblewrap_the_environment_is_empty_all_the_same(
    tmp_path: Path,
) -> None:
    sandbox = Sandbox(None, path="/usr/bin:/bin")
    env = mark({"PATH": "/usr/bin:/bin", "SECRET": CANARY}, "one 'two'")
    confined = sandbox.command(
        ["env"], checkout=tmp_path, network=False, env={"COMMIT": "a b"}
    )
    done = await run(confined.argv, env=confined.marked(env), timeout=PATIENCE)
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


async def test_a_bubblewrap_that_lacks_late_options_does_without(
    tmp_path: Path,
) -> None:
    real = shutil.which("bwrap")
    script = tmp_path / "bwrap"
    script.write_text(
        f"""#!/bin/sh
        if [ "$1" = --help ]; then echo "--tmpfs DEST"; exit; fi
        case " $* " in *" --size "*|*" --disable-userns "*) echo what >&2; exit 1;; esac
        exec {real} "$@"
        """
    )
    script.chmod(0o755)
    found, why = await find(str(tmp_path))
    assert (found, why) == (Sandbox(str(script), knows=frozenset()), "")
    script.write_text("#!/bin/sh\necho no uid map >&2; exit 1\n")
    found, why = await find(str(tmp_path))
    assert found is None
    assert "no uid map" in why
    assert "RestrictNamespaces" in why
    assert await find(str(tmp_path / "nowhere")) == (
        None,
        "bubblewrap (`bwrap`) is not installed, or not on our PATH",
    )


SERVER = """
import asyncio, os, shutil, sys
from pathlib import Path
from ci.adapters.process import spawn
from ci.adapters.sandbox import Sandbox
async def main():
    script = f"setsid sleep {sys.argv[2]} & echo ready; sleep {sys.argv[2]}"
    confined = Sandbox(shutil.which("bwrap")).command(
        ["sh", "-c", script], checkout=Path(sys.argv[1]), network=False
    )
    async with spawn(confined.argv, env=confined.env) as process:
        print((await process.read()).decode(), end="", flush=True)
        await process.wait()
asyncio.run(main())
"""


async def test_it_dies_with_the_server(tmp_path: Path) -> None:
    # That no other sleep of this host sleeps.
    seconds = str(7 * 10**9 + int.from_bytes(os.urandom(4)))

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


@pytest.mark.parametrize("profile", ["command", "evaluation"])
def test_nothing_is_mounted_below_what_a_commit_can_write(
    tmp_path: Path, profile: str
) -> None:
    """There a link of its own could lead bubblewrap elsewhere (CVE-2026-87766)."""
    sandbox = Sandbox("/usr/bin/bwrap")
    nix = FakeNix(
        {}, readable=(Path("/etc/nix/nix.conf"),), writable=(tmp_path / "store",)
    )
    if profile == "command":
        confined = sandbox.command(["true"], checkout=tmp_path, network=True)
    else:
        mirror = tmp_path / "mirrors/1.git"
        confined = sandbox.evaluation(
            ["true"], nix=nix, readable=[mirror], cache=tmp_path / "cache", network=True
        )
    options = confined.argv[1 : confined.argv.index("--")]
    places = {"--bind": 2, "--ro-bind": 2, "--ro-bind-try": 2, "--symlink": 2}
    places |= {"--tmpfs": 1, "--dir": 1, "--proc": 1, "--dev": 1}
    made = [
        (word, options[at + places[word]])
        for at, word in enumerate(options)
        if word in places
    ]
    written = [place for word, place in made if word == "--bind"]
    assert len(written) == (1 if profile == "command" else 2)
    assert len(made) > 20
    for place in written:
        below = [other for _, other in made if other.startswith(f"{place}/")]
        assert below == []


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
