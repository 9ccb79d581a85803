"""Which build is meant, in a checkout and out of one."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

import pytest

from ci.client.builds import Repository
from ci.client.checkout import match, normal
from ci.client.words import Words
from ci.models import BuildState
from tests.client.conftest import House
from tests.serve.conftest import sha
from tests.serve.desk import desk

DIGITS = 0x1234567
ORIGIN = "git@github.com:Owner/name.git"


async def _number(house: House, *argv: str, cwd: Path | None = None) -> tuple[int, str]:
    """The build that `bs` shows, and what it says on stderr."""
    ran = await house.run("bs", "--exit-zero", *argv, cwd=cwd)
    assert ran.code == 0, ran
    return int(ran.out.split("\t")[0]), ran.err


async def test_every_way_to_name_a_build(house: House) -> None:
    first = await house.served.add(0xFEEDFACE >> 4, BuildState.FAILED)
    main = await house.served.add(2, BuildState.FAILED, branch="main")
    digits = await house.served.add(DIGITS, BuildState.SUCCEEDED)
    last = await house.served.add(4)
    page = "http://build-server:8000"
    named = {
        "last": last,
        "dev": last,
        "main": main,
        str(first): first,
        f"#{first}": first,
        "feedfac": first,
        sha(0xFEEDFACE >> 4).upper(): first,
        "1234567": digits,
        f"{page}/builds/{first}": first,
        f"{page}/builds/{first}/log?tail=9#L30": first,
        f"{page}/builds/{first}.json": first,
        f"{page}/commits/{sha(2)}": main,
        f"{house.url}/builds/{main}": main,
    }
    ran = await house.run_all(["bs", "--json=number", name] for name in named)
    shown = {name: each.out for name, each in zip(named, ran, strict=True)}
    assert shown == {
        name: f'{{"number": {number}}}\n' for name, number in named.items()
    }
    assert {each.err for each in ran} == {""}
    other, said = await _number(house, "https://other.example/builds/1")
    assert other == 1
    assert "other.example" in said
    assert (await house.run("bl", "-1")).err.startswith(f"bl: #{last} ")
    assert (await house.run("bl", "-3")).err.startswith(f"bl: #{main} ")


def _git(checkout: Path, *argv: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *argv], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit on `dev`, whose origin is the configured repository."""
    path = tmp_path / "checkout"
    path.mkdir()
    _git(path, "init", "--quiet", "--initial-branch=dev")
    _git(path, "commit", "--quiet", "--allow-empty", "--message=one")
    _git(path, "remote", "add", "origin", ORIGIN)
    (path / "deep").mkdir()
    return path


async def test_checkout(house: House, checkout: Path) -> None:
    deep = checkout / "deep"
    old = await house.served.add(1, BuildState.SUCCEEDED)
    newest = await house.served.add(2, BuildState.SUCCEEDED, branch="main")
    head = _git(checkout, "rev-parse", "HEAD")
    shown, said = await _number(house, cwd=deep)
    assert (shown, f"HEAD ({head[:7]}) has no build; this is" in said) == (old, True)
    assert "the newest of dev" in said
    await house.served.database.write(_become, old, head)
    fork = await house.served.add(3, BuildState.SUCCEEDED, repo="other/fork")
    await house.served.database.write(_become, fork, head)
    assert await _number(house, cwd=deep) == (old, "")
    assert await _number(house, "-R", "owner/name", cwd=deep) == (newest, "")
    _git(checkout, "checkout", "--quiet", "-b", "feature")
    _git(checkout, "commit", "--quiet", "--allow-empty", "--message=two")
    shown, said = await _number(house, cwd=deep)
    assert (shown, "this is the newest of owner/name" in said) == (newest, True)
    _git(checkout, "checkout", "--quiet", "--detach")
    assert (await _number(house, cwd=deep))[0] == newest
    _git(checkout, "remote", "set-url", "origin", "https://github.com/other/thing")
    assert await _number(house, cwd=deep) == (newest, "")


async def test_trigger_in_a_checkout_is_for_its_repository(
    house: House, checkout: Path
) -> None:
    number = await house.served.add(1)
    answer = {"status": "triggered", "message": "queued", "build": number}
    async with desk(house.served, lambda request: answer) as seen:
        for argv in (["bt"], ["bt", "1A2B3C4"], ["bt", "main", "--target", "checks.*"]):
            assert (await house.run(*argv, cwd=checkout)).code == 0
        assert (await house.run("bt", "-R", "OWNER/NAME", "--force")).code == 0
    assert [request.body for request in seen] == [
        {"repo": "owner/name"},
        {"repo": "owner/name", "rev": "1a2b3c4"},
        {"repo": "owner/name", "ref": "main", "targets": ["checks.*"]},
        {"repo": "OWNER/NAME", "force": True},
    ]


async def test_without_git_there_is_no_checkout(house: House, checkout: Path) -> None:
    number = await house.served.add(1, BuildState.SUCCEEDED)
    ran = await house.run("bs", cwd=checkout, PATH="/nonexistent")
    assert (ran.code, ran.out.split("\t")[0]) == (0, str(number))


def _become(connection: sqlite3.Connection, number: int, commit: str) -> None:
    connection.execute("UPDATE builds SET sha = ? WHERE number = ?", (commit, number))


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/Owner/Name.git",
        "https://user:secret@github.com/owner/name",
        "http://github.com:80/owner/name/",
        "ssh://git@github.com:22/owner/name.git",
        "git@github.com:owner/name.git",
        "github.com:owner/name",
    ],
)
def test_one_repository_has_many_urls(url: str) -> None:
    assert normal(url) == "github.com/owner/name"


def test_a_mirror_is_known_by_its_name() -> None:
    entries = [
        {"name": "a/one", "url": "file:///srv/one.git"},
        {"name": "b/one", "url": "https://forge.example/x/y"},
    ]
    one, two = repositories = [Repository(entry) for entry in entries]
    assert match("git@github.com:b/one.git", repositories) is two
    assert match("https://forge.example/X/y.git", repositories) is two
    assert match("/srv/one.git", repositories) is one
    assert match("https://github.com/ab/one", repositories) is None


@pytest.mark.parametrize(
    ("argv0", "verb", "hint"),
    [
        ("/usr/bin/bs", "status", "bl -f 1"),
        ("build-status", "status", "build-logs -f 1"),
        ("/nix/store/x-client/bin/.bt-wrapped", "trigger", "bl -f 1"),
        ("/x/ci/client/main.py", None, "build-client logs -f 1"),
        ("build-client", None, "build-client logs -f 1"),
    ],
)
def test_the_name_is_the_verb(argv0: str, verb: str | None, hint: str) -> None:
    words = Words(argv0)
    assert (words.verb, words.command("logs", "-f", "1")) == (verb, hint)


def test_hints_can_be_pasted_into_a_shell() -> None:
    odd = 'homeConfigurations."it\'s; rm -rf ~"\x1b'
    assert Words("bl").command("logs", odd) == (
        "bl 'homeConfigurations.\"it'\"'\"'s; rm -rf ~\"\\x1b'"
    )
