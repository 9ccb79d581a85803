"""Commits of our own in a mirror: what is in them, and how long they stay."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from ci.adapters.git import Mirror
from ci.errors import CommitVanished
from tests.fakes.repository import Origin

FILES = {"flake.nix": "{ }", "sub/flake.lock": "old", "sub/deep/x": "x", "zürich": "z"}


def git(mirror: Mirror, *args: str) -> str:
    argv = ["git", f"--git-dir={mirror.path}", *args]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


async def test_one_file_is_another_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "origin.git")
    sha = origin.commit(FILES, executable=["sub/deep/x"], links={"link": "flake.nix"})
    mirror = Mirror(tmp_path / "mirror", origin.url)
    await mirror.fetch_commit(sha, 1)
    made = await mirror.amend(sha, "sub/flake.lock", b"new\n", "An update")
    assert await mirror.amend(sha, "sub/flake.lock", b"new\n", "An update") == made
    assert git(mirror, "show", f"{made}:sub/flake.lock") == "new\n"
    assert git(mirror, "diff", "--name-status", sha, made) == "M\tsub/flake.lock\n"
    told = git(mirror, "log", "-1", "--format=%P %an %s %at %ct", made).split(" ")
    age = git(mirror, "log", "-1", "--format=%ct", sha).strip()
    assert told == [sha, "build-server", "An", "update", age, f"{age}\n"]
    added = await mirror.amend(sha, "flake.lock", b"{}", "One more")
    assert git(mirror, "diff", "--name-status", sha, added) == "A\tflake.lock\n"
    bare = await mirror.amend(sha, "sub/flake.lock", None, "None")
    assert git(mirror, "diff", "--name-status", sha, bare) == "D\tsub/flake.lock\n"
    same = await mirror.amend(sha, "flake.lock", None, "None")
    assert git(mirror, "diff", "--name-status", sha, same) == ""
    assert git(mirror, "fsck", "--strict", "--no-dangling") == ""


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "origin.git")
    sha = origin.commit(FILES, links={"there": str(tmp_path)})
    mirror = Mirror(tmp_path / "mirror", origin.url)
    await mirror.fetch_commit(sha, 1)
    with pytest.raises(CommitVanished):
        await mirror.amend(sha, "there/flake.lock", b"new", "An update")
    assert not (tmp_path / "flake.lock").exists()


async def test_a_commit_of_our_own_is_built_without_the_remote_as_long_as_it_is_kept(
    tmp_path: Path,
) -> None:
    origin = Origin(tmp_path / "origin.git")
    mirror = Mirror(tmp_path / "mirror", origin.url)
    sha = origin.commit(FILES)
    await mirror.fetch_commit(sha, 1)
    kept = await mirror.amend(sha, "flake.lock", b"1", "An update")
    gone = await mirror.amend(sha, "flake.lock", b"2", "An update")
    await mirror.fetch_commit(kept, 2)
    await mirror.fetch_commit(sha, 3)
    for build in (1, 2, 3):
        mirror.release(build)
    await mirror.tidy(newest=1)
    await mirror.keep_own([kept])
    await asyncio.to_thread(git, mirror, "gc", "--quiet", "--prune=now")
    assert await mirror.lacks([kept, gone]) == {gone}
    await asyncio.to_thread(origin.path.rename, tmp_path / "away.git")
    await mirror.fetch_commit(kept, 4)
    assert (await mirror.commit(kept)).title == "An update"
