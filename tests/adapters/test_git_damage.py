"""A mirror survives what power cuts, kills and bad disks do to its files."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ci.adapters.git import Mirror
from ci.errors import CommitVanished, HostFault
from tests.fakes.git_http import git_server
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

ROOT = Path(__file__).parents[2]
HISTORY = 120
SEED = int(os.environ.get("DAMAGE_SEED", "20261120"))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    origin = Origin(tmp_path_factory.mktemp("damage") / "origin.git")
    noise = random.Random(SEED)
    origin.commit({f"f{number}": noise.randbytes(300) for number in range(30)})
    origin.commits(HISTORY)
    return origin


@pytest.fixture
async def mirror(origin: Origin, tmp_path: Path) -> Mirror:
    """One that holds all but the newest commit, for build 1."""
    mirror = Mirror(tmp_path / "mirror", origin.url)
    await mirror.fetch_commit(older(origin), 1)
    return mirror


def older(origin: Origin) -> str:
    return origin.git("rev-parse", "dev~3").decode().strip()


def git(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    argv = ["git", f"--git-dir={path}", *args]
    return subprocess.run(argv, capture_output=True, text=True)


def overwrite(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def pack(mirror: Path, suffix: str) -> Path:
    (found,) = (mirror / "objects/pack").glob(f"*.{suffix}")
    return found


def cut_pack(part: float) -> Callable[[Path], None]:
    def damage(mirror: Path) -> None:
        content = pack(mirror, "pack").read_bytes()
        overwrite(pack(mirror, "pack"), content[: int(part * len(content))])

    return damage


def flip(mirror: Path) -> None:
    content = bytearray(pack(mirror, "pack").read_bytes())
    for place in range(100, len(content) - 40, 50):
        content[place] ^= 0xFF
    overwrite(pack(mirror, "pack"), bytes(content))


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda mirror: overwrite(mirror / name, content)


def touch(*names: str) -> Callable[[Path], None]:
    def damage(mirror: Path) -> None:
        for name in names:
            (mirror / name).parent.mkdir(parents=True, exist_ok=True)
            (mirror / name).touch()

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda mirror: (mirror / name).unlink()


DAMAGES = {
    **{f"pack cut at {part}": cut_pack(part) for part in (0, 0.01, 0.3, 0.7, 0.999)},
    "pack with flipped bits": flip,
    "empty index of a pack": lambda mirror: overwrite(pack(mirror, "idx"), b""),
    "no pack": lambda mirror: pack(mirror, "pack").unlink(),
    "empty ref": write("refs/build-server/build/1", b""),
    "garbage ref": write("refs/build-server/build/1", b"\0garbage\n"),
    "ref to nothing": write("refs/build-server/build/1", b"7" * 40 + b"\n"),
    "empty HEAD": write("HEAD", b""),
    "no HEAD": remove("HEAD"),
    "broken config": write("config", b"[[["),
    "empty config": write("config", b""),
    "locks": touch(
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        "refs/build-server/build/1.lock",
        "refs/build-server/build/2.lock",
        "objects/info/commit-graph.lock",
        "index.lock",
        "shallow.lock",
        "gc.pid",
    ),
    "garbage about shallow commits": write("shallow", b"garbage\n"),
    "garbage in a list of objects": write("packed-refs", b"\0\0\0"),
    "half a fetch": touch("objects/pack/tmp_pack_1", "objects/pack/.tmp-1-pack-2"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_the_next_fetch_mends_it(
    name: str, origin: Origin, mirror: Mirror
) -> None:
    await asyncio.to_thread(DAMAGES[name], mirror.path)
    after_restart = Mirror(mirror.path, origin.url)
    await after_restart.fetch_commit(origin.head(), 2)
    await after_restart.fetch_commit(older(origin), 1)
    assert (await after_restart.commit(origin.head())).sha == origin.head()
    assert len(await after_restart.rev_list(origin.head(), None, 999)) == HISTORY + 1
    checked = git(mirror.path, "fsck", "--strict")
    assert checked.returncode == 0, checked.stderr
    assert "error" not in checked.stderr
    assert list(mirror.path.rglob("*.lock")) == []
    assert list(mirror.path.rglob("*tmp*")) == []


async def test_a_commit_of_which_an_object_is_lost_is_fetched_again(
    origin: Origin, mirror: Mirror
) -> None:
    """Git itself does not notice: to fetch what is there already it reads no file."""
    sha = older(origin)
    assert await mirror.intact(sha)
    (lost,) = git(mirror.path, "rev-parse", f"{sha}:f7").stdout.split()
    await asyncio.to_thread(without, mirror.path, lost)
    await mirror.fetch_commit(sha, 2)
    assert not await mirror.intact(sha)
    assert await mirror.lacks([sha, "7" * 40]) == {"7" * 40}
    await mirror.fetch_commit(sha, 3)
    assert await mirror.intact(sha)
    assert await mirror.lacks([sha]) == set()


def without(mirror: Path, lost: str) -> None:
    """Every object on its own, but for one that is not there any more."""
    for path in list(mirror.glob("objects/pack/*.pack")):
        moved = mirror / path.name
        path.rename(moved)
        path.with_suffix(".idx").unlink()
        with moved.open("rb") as pack:
            argv = ["git", f"--git-dir={mirror}", "unpack-objects", "-q"]
            subprocess.run(argv, stdin=pack, check=True)
        moved.unlink()
    (mirror / "objects" / lost[:2] / lost[2:]).unlink()


def hurt(path: Path, rnd: random.Random) -> str:
    """Damage a file as disks and power cuts do; returns what was done."""
    content = path.read_bytes()
    how = rnd.choice(["cut", "flip", "zero", "noise", "gone"])
    if how == "gone":
        path.unlink()
        return how
    damaged = bytearray(content)
    if how == "cut":
        damaged = damaged[: rnd.randrange(len(content) + 1)]
    elif how == "flip":
        for _ in range(rnd.choice([1, 5, 50]) if content else 0):
            damaged[rnd.randrange(len(content))] ^= 1 << rnd.randrange(8)
    elif how == "zero":
        damaged = bytearray(len(content))
    else:
        damaged = bytearray(rnd.randbytes(len(content)))
    overwrite(path, bytes(damaged))
    return how


async def works(mirror: Mirror, origin: Origin) -> bool:
    """Everything that a build asks of it; HostFault is ours to mend by the next fetch."""
    head = origin.head()
    await mirror.fetch_commit(head, 2)
    await mirror.fetch_commit(older(origin), 3)
    if not (await mirror.intact(head) and await mirror.intact(older(origin))):
        return False
    assert len(await mirror.rev_list(head, None, 999)) == HISTORY + 1
    assert await mirror.lacks([head, older(origin)]) == set()
    assert await mirror.is_ancestor(older(origin), head)
    await mirror.tidy()
    return True


@pytest.mark.faults
async def test_any_damage_is_mended_by_the_second_fetch(
    origin: Origin, mirror: Mirror, tmp_path: Path
) -> None:
    """A pack cut at 20 places, then 40 files that something happened to."""
    print(f"DAMAGE_SEED={SEED}")
    rnd = random.Random(SEED)
    sound, copy = mirror.path, tmp_path / "copy"
    # With everything that a git of another configuration may have left there.
    git(sound, "-c", "gc.writeCommitGraph=true", "gc", "--quiet")
    git(sound, "multi-pack-index", "write")
    files = sorted(
        path.relative_to(sound) for path in sound.rglob("*") if path.is_file()
    )

    def some_file(path: Path) -> None:
        name = rnd.choice(files)
        print(name, hurt(path / name, rnd))

    cuts = [cut_pack(part / 20) for part in range(20)]
    for damage in (*cuts, *[some_file] * 40):
        await asyncio.to_thread(shutil.rmtree, copy, ignore_errors=True)
        await asyncio.to_thread(shutil.copytree, sound, copy)
        await asyncio.to_thread(damage, copy)
        hurt_one, ended = Mirror(copy, origin.url), False
        for _ in range(3):
            try:
                ended = await works(hurt_one, origin)
            except HostFault as fault:
                print(fault)
            if ended:
                break
        assert ended


async def test_damage_found_while_reading_is_ours_and_mended_for_all(
    origin: Origin, mirror: Mirror
) -> None:
    await mirror.fetch_commit(origin.head(), 2)
    for path in mirror.path.glob("objects/pack/*"):
        path.unlink()
    with pytest.raises(CommitVanished):
        await mirror.commit(older(origin))
    overwrite(mirror.path / "refs/build-server/build/2", b"")
    overwrite(mirror.path / "config", b"[[[")
    for read in (mirror.commit(older(origin)), mirror.pin(older(origin), 3)):
        with pytest.raises(HostFault, match="is damaged and will be fetched anew"):
            await read
    await mirror.fetch_commit(older(origin), 4)
    assert (await mirror.commit(origin.head())).sha == origin.head()
    listed = git(mirror.path, "for-each-ref", "--format=%(refname)").stdout.split()
    assert sorted(listed) == [f"refs/build-server/build/{n}" for n in (1, 2, 4)]


async def test_locks_of_a_git_at_work_are_respected(
    origin: Origin, mirror: Mirror
) -> None:
    lock = mirror.path / "refs/build-server/build/2.lock"
    touch(str(lock.relative_to(mirror.path)))(mirror.path)
    at_work = await asyncio.create_subprocess_exec(
        "git", f"--git-dir={mirror.path}", "cat-file", "--batch", stdin=-1
    )
    try:
        again = Mirror(mirror.path, origin.url)
        with pytest.raises(HostFault, match="cannot lock ref"):
            await again.fetch_commit(origin.head(), 2)
        assert lock.exists()
    finally:
        await at_work.communicate(b"")
    await again.fetch_commit(origin.head(), 2)


SERVER = """
import asyncio, sys
from pathlib import Path
from ci.adapters.git import Mirror
asyncio.run(Mirror(Path(sys.argv[1]), sys.argv[2]).fetch_commit(sys.argv[3], 1))
"""


async def test_a_server_killed_while_it_fetches(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    async with git_server(origin) as remote:
        remote.hold.clear()
        argv = ["-c", SERVER, str(path), remote.url, origin.head()]
        server = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT)
        await remote.asked.wait()
        server.send_signal(signal.SIGKILL)
        await server.wait()
        remote.hold.set()
        await wait_until(lambda: not running(path), what="the end of its git")
        mirror = Mirror(path, remote.url)
        await mirror.fetch_commit(origin.head(), 1)
        assert git(path, "fsck").returncode == 0


async def test_a_git_killed_while_it_fetches(origin: Origin, tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    async with git_server(origin) as remote:
        remote.hold.clear()
        mirror = Mirror(path, remote.url)
        fetching = asyncio.create_task(mirror.fetch_commit(origin.head(), 1))
        await remote.asked.wait()
        for pid in (await asyncio.to_thread(running, path)).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        remote.hold.set()
        with pytest.raises(HostFault, match="signal 9") as caught:
            await fetching
        assert type(caught.value) is HostFault
        await mirror.fetch_commit(origin.head(), 1)
        assert git(path, "fsck").returncode == 0


def running(path: Path) -> str:
    argv = ["pgrep", "--full", "--runstates", "DRST", f"git --git-dir={path}"]
    return subprocess.run(argv, capture_output=True, text=True).stdout
