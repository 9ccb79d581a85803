"""Mirrors of real repositories: what they fetch, what they refuse, how they recover."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from ci.adapters.git import Mirror
from ci.errors import CommitVanished, HostFault
from ci.models import Commit
from tests.fakes.repository import Origin

HOSTILE = (
    "--upload-pack=touch CANARY",
    "$(touch${IFS}CANARY)",
    "a`touch${IFS}CANARY`",
    "a;touch${IFS}CANARY",
    "a|touch${IFS}CANARY",
    "<svg/onload=alert(1)>",
    "a" * 40,
    "HEAD",
    "refs/heads/dev",
    "-",
    "@",
    "Zürich/日本語/🚀",
    "a'b\"c",
    "x&rev=y#z%00",
)
IMPOSSIBLE = (
    "",
    "a b",
    "a..b",
    "a:b",
    "a^",
    "*",
    "../x",
    "x.lock",
    "a/",
    "\ud800",
    "a\n",
)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin.git")


@pytest.fixture
def mirror(tmp_path: Path, origin: Origin) -> Mirror:
    return Mirror(tmp_path / "mirrors/1", origin.url)


def refs(mirror: Mirror) -> list[str]:
    argv = ["git", f"--git-dir={mirror.path}", "for-each-ref", "--format=%(refname)"]
    return subprocess.run(argv, capture_output=True, text=True).stdout.split()


async def test_a_commit_comes_with_its_history_and_only_under_our_names(
    origin: Origin, mirror: Mirror
) -> None:
    first = origin.commit({"a": "1"}, "First")
    origin.branch("side")
    middle = origin.commit(
        {"b": "1"}, "On the side", branch="side", author="Grace Hopper"
    )
    second = origin.commit({"a": "2"}, "Second\n\nWith\na body\n")
    merged = origin.merge("side", "Merge")
    origin.git("tag", "v1", merged)
    await mirror.fetch_commit(merged, 7)
    assert refs(mirror) == ["refs/build-server/build/7"]
    assert await mirror.commit(second) == Commit(
        second, "Second", "Ada Lovelace", "Second\n\nWith\na body"
    )
    shas = [commit.sha for commit in await mirror.rev_list(merged, first, 100)]
    assert shas[-1] == merged
    assert set(shas) == {middle, second, merged}
    assert await mirror.is_ancestor(first, merged)
    assert not await mirror.is_ancestor(second, middle)
    assert await mirror.resolve(middle[:9].upper()) == middle
    await mirror.unpin(7)
    await mirror.unpin(8)
    assert refs(mirror) == []
    await mirror.pin(second, 9)
    assert refs(mirror) == ["refs/build-server/build/9"]


async def test_rev_list_is_oldest_first_and_keeps_the_newest(
    origin: Origin, mirror: Mirror
) -> None:
    shas = origin.commits(30)
    await mirror.fetch_commit(shas[-1], 1)

    async def listed(old: str | None, limit: int) -> list[str]:
        return [commit.sha for commit in await mirror.rev_list(shas[-1], old, limit)]

    assert await listed(shas[9], 100) == shas[10:]
    assert await listed(shas[9], 5) == shas[-5:]
    assert await listed(shas[-1], 5) == []
    for unknown in (None, "0" * 40, "7" * 40, "nonsense"):
        assert await listed(unknown, 4) == shas[-4:]
    for missing in ("7" * 40, "nonsense", "HEAD", "--all"):
        with pytest.raises(CommitVanished):
            await mirror.rev_list(missing, None, 4)
        with pytest.raises(CommitVanished):
            await mirror.commit(missing)
        with pytest.raises(CommitVanished):
            await mirror.is_ancestor(shas[0], missing)
        with pytest.raises(CommitVanished):
            await mirror.is_ancestor(missing, shas[0])
        assert await mirror.resolve(missing) is None


async def test_odd_messages_are_told_as_they_are(
    origin: Origin, mirror: Mirror
) -> None:
    texts = [
        "",
        "\n\n  Late  \nbody",
        "tab\tcr\r\nunit\x1f",
        "Zürich 🚀",
        "x" * 100_000,
    ]
    for text in texts:
        origin.commit({}, text)
    sha = origin.commit({}, "broken \udcff byte", author="Ünï 'x\" &lt;")
    await mirror.fetch_commit(sha, 1)
    commits = await mirror.rev_list(sha, None, 10)
    assert [commit.message for commit in commits] == [
        *texts,
        "broken \N{REPLACEMENT CHARACTER} byte",
    ]
    assert [commit.title for commit in commits][:2] == ["", "Late  "]
    assert commits[-1].author == "Ünï 'x\" &lt;"


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_branch_name_is_obeyed(
    name: str, origin: Origin, mirror: Mirror, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    branch = name.replace("CANARY", str(canary)).replace(" ", "${IFS}")
    origin.commit({"a": "1"})
    wanted = origin.commit({"b": "2"}, branch=branch)
    assert await mirror.remote_refs(["dev", branch, "absent", *IMPOSSIBLE]) == {
        "dev": origin.head(),
        branch: wanted,
    }
    assert await mirror.fetch_branch(branch) == wanted
    assert all(ref.startswith("refs/build-server/head/") for ref in refs(mirror))
    assert not canary.exists()


async def test_a_branch_named_like_a_commit_is_not_taken_for_it(
    origin: Origin, mirror: Mirror
) -> None:
    first = origin.commit({"a": "1"})
    second = origin.commit({"a": "2"})
    origin.branch(first, at=second)
    assert await mirror.fetch_branch(first) == second
    await mirror.fetch_commit(first, 1)
    assert (await mirror.commit(first)).sha == first
    assert await mirror.resolve(first[:12]) == first


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_what_cannot_be_a_branch_is_refused(name: str, mirror: Mirror) -> None:
    with pytest.raises(CommitVanished, match="cannot be the name of a branch"):
        await mirror.fetch_branch(name)


async def test_what_is_here_needs_no_network(
    origin: Origin, mirror: Mirror, tmp_path: Path
) -> None:
    sha = origin.commits(3)[-1]
    await mirror.fetch_commit(sha, 1)
    origin.path.rename(tmp_path / "gone")
    await mirror.fetch_commit(sha, 2)
    again = Mirror(mirror.path, origin.url)
    await again.fetch_commit(sha, 3)
    assert len(refs(mirror)) == 3
    with pytest.raises(HostFault, match=r"no repository at file://.*check its url"):
        await mirror.fetch_commit("7" * 40, 4)


async def test_what_was_rewritten_away_has_vanished(
    origin: Origin, mirror: Mirror
) -> None:
    first = origin.commit({"a": "1"})
    lost = origin.commit({"a": "2"})
    head = origin.force(first, {"a": "3"})
    await mirror.fetch_commit(lost, 1)
    origin.vanish()
    fresh = Mirror(mirror.path.with_name("2"), origin.url)
    with pytest.raises(CommitVanished, match=f"no longer has this commit: .*{lost}"):
        await fresh.fetch_commit(lost, 1)
    with pytest.raises(CommitVanished, match="couldn't find remote ref"):
        await fresh.fetch_branch("absent")
    await fresh.fetch_commit(head, 1)
    tree = origin.git("rev-parse", f"{head}^{{tree}}").decode().strip()
    with pytest.raises(CommitVanished, match="is not a commit"):
        await fresh.commit(tree)


async def test_fetches_of_one_mirror_do_not_collide(
    origin: Origin, mirror: Mirror
) -> None:
    shas = origin.commits(12)
    jobs = [mirror.fetch_commit(sha, build) for build, sha in enumerate(shas)]
    heads = [mirror.fetch_branch("dev") for _ in range(4)]
    lists = [mirror.remote_refs(["dev"]) for _ in range(4)]
    results = await asyncio.gather(*jobs, *heads, *lists)
    assert results[12:] == [shas[-1]] * 4 + [{"dev": shas[-1]}] * 4
    assert len(refs(mirror)) == 13
    await mirror.tidy()


async def test_only_the_protocol_of_the_url_is_spoken(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    origin = Origin(tmp_path / "origin")
    sha = origin.commit({"a": "1"})
    for url, allow in (
        (f"ext::touch {canary}", "https"),
        (f"ext::touch {canary}", None),
        (origin.url, "https"),
        (str(origin.path), "ssh"),
    ):
        mirror = Mirror(tmp_path / "m", url, allow=allow)
        with pytest.raises(HostFault, match=r"transport '(ext|file)' not allowed"):
            await mirror.fetch_commit(sha, 1)
    assert not canary.exists()
    await Mirror(tmp_path / "m", str(origin.path)).fetch_commit(sha, 1)


async def test_a_checkout_is_the_files_and_nothing_else(
    origin: Origin, mirror: Mirror, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    files: dict[str, str | bytes | None] = {
        "plain": b"bytes\0\xff",
        "sub/run": "#!/bin/sh\n",
        "ünï/-x": "1",
        "tests/left-out": "no",
        "version": "$Format:%H$ $Id$",
        ".gitattributes": "tests export-ignore\nversion export-subst\nplain filter=evil\n",
        ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = /etc\n',
    }
    links = {"out": str(outside), "up": "../../outside", "in": "plain"}
    sha = origin.commit(files, executable=["sub/run"], links=links)
    await mirror.fetch_commit(sha, 1)
    into = tmp_path / "deep/checkout"
    await mirror.checkout(sha, into)
    found = {
        str(p.relative_to(into))
        for p in into.rglob("*")
        if not p.is_dir() or p.is_symlink()
    }
    assert found == {*files, *links}
    assert (into / "plain").read_bytes() == b"bytes\0\xff"
    assert (into / "version").read_text() == "$Format:%H$ $Id$"
    assert (into / "sub/run").stat().st_mode & 0o777 == 0o755
    assert {name: str((into / name).readlink()) for name in links} == links
    assert list(outside.iterdir()) == []
    with pytest.raises(CommitVanished):
        await mirror.checkout("7" * 40, tmp_path / "other")


async def test_a_flake_url_survives_odd_directories(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "a b?&c", "https://example.org/x.git")
    url = mirror.flake_url(7, "1" * 40, ".")
    assert url.startswith(
        f"git+file://{tmp_path}/a%20b%3F%26c?ref=refs/build-server/build/7&rev=1"
    )
    assert mirror.flake_url(7, "1" * 40, "nix/ü&x") == f"{url}&dir=nix/%C3%BC%26x"
