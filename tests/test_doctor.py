"""The doctor finds what is wrong, finds nothing else, and says how to mend it."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import sqlite3
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from pathlib import Path

import pytest
from aiohttp import web
from pytest_aiohttp import AiohttpServer

from ci import config, doctor
from ci.adapters import host, process
from ci.config import Secrets, Settings
from ci.doctor import examinations, known_holes, program_checks
from ci.doctor.program_checks import Identity
from ci.errors import (
    CredentialRejected,
    GitHubBusy,
    GitHubError,
    GitHubRefused,
    GitHubUnavailable,
)
from ci.intake.probe import answer
from ci.models import Check
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.push import SECRET

SETTINGS_OF_NIX = (
    '{"sandbox": {"value": %s}, "trusted-users": {"value": ["root", "@wheel"]}, '
    '"access-tokens": {"value": {"github.com": "c4n4ry"}}}'
)
SERVICE = Identity("build-server", frozenset({"build-server"}), root=False)
KEY = "build-server-1:" + "A" * 43 + "="
Serve = Callable[[Mapping[str, int]], Awaitable[str]]
Answering = Callable[[Sequence[bytes]], Awaitable[str]]


def put_program(directory: Path, name: str, *lines: str) -> None:
    directory.mkdir(exist_ok=True)
    script = directory / name
    script.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    script.chmod(0o755)


def put_nix(directory: Path, version: str, sandbox: str = "true") -> None:
    """A nix that knows `config show`, or only `show-config` when it is old."""
    command = "config show" if version >= "2.20" else "show-config"
    put_program(
        directory,
        "nix",
        'case "$*" in',
        f'--version) echo "nix (Nix) {version}";;',
        f"*' {command} --json') echo '{SETTINGS_OF_NIX % sandbox}';;",
        '*) echo "unknown command" >&2; exit 1;;',
        "esac",
    )


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH of its own, with programs that are all well."""
    directory = tmp_path / "bin"
    put_program(directory, "git", "echo git version 2.50.1")
    put_program(directory, "bwrap", "echo bubblewrap 0.11.0")
    put_nix(directory, "2.34.9")
    return directory


@pytest.fixture
def serve(aiohttp_server: AiohttpServer) -> Serve:
    """A server that answers each path with the status it is given, else 404."""

    async def start(answers: Mapping[str, int]) -> str:
        async def handler(request: web.Request) -> web.Response:
            body = "StoreDir: /nix/store\n"
            return web.Response(text=body, status=answers.get(request.path, 404))

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        server = await aiohttp_server(application)
        return str(server.make_url("")).rstrip("/")

    return start


@pytest.fixture
def answering(aiohttp_server: AiohttpServer) -> Answering:
    """A server behind whose `/webhook` somebody holds these secrets."""

    async def start(secrets: Sequence[bytes]) -> str:
        async def handler(request: web.Request) -> web.Response:
            signature = request.headers["X-Hub-Signature-256"]
            proof = answer(await request.read(), signature, secrets)
            return web.json_response({"probe": proof}, status=200 if proof else 401)

        application = web.Application()
        application.router.add_post("/webhook", handler)
        server = await aiohttp_server(application)
        return str(server.make_url("")).rstrip("/")

    return start


async def _confined() -> tuple[bool, str]:
    return True, ""


async def _not_confined() -> tuple[bool, str]:
    return False, "user namespaces are switched off"


def settings(tmp_path: Path, toml: str = "") -> Settings:
    text = f'state_dir = "{tmp_path}"\n{toml}\n[[repository]]\nname = "o/n"\n'
    return config.parse(tomllib.loads(text))


def by_name(checks: list[Check]) -> dict[str, Check]:
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}


async def test_a_whole_round_where_all_is_well(
    tmp_path: Path, programs: Path, serve: Serve, answering: Answering
) -> None:
    """Real programs, real servers; only what depends on this machine may be wrong."""
    secret = tmp_path / "secret"
    secret.write_text(TOKEN)
    secret.chmod(0o600)
    outside = await answering([SECRET])
    cache = await serve({"/nix-cache-info": 200})
    async with FakeGitHub() as github:
        chosen = settings(
            tmp_path,
            f"""
            [github]
            api_url = "{github.url}"
            webhook_secret_file = "{secret}"
            token_file = "{secret}"
            public_webhook_url = "{outside}/webhook"
            [cache]
            url = "{cache}"
            public_key = "{KEY}"
            """,
        )
        found = by_name(
            await doctor.checks(
                chosen,
                Secrets(github_token=TOKEN, webhook=(SECRET,)),
                {"PATH": str(programs), "NIX_STORE_DIR": str(tmp_path)},
                available=_confined,
            )
        )
    assert list(found) == [
        "configuration",
        "secrets",
        "python",
        "aiohttp",
        "sqlite",
        "git",
        "nix",
        "nix settings",
        "bwrap",
        "sandbox",
        "disk",
        "store",
        "clock",
        "token",
        "funnel",
        "cache",
    ]
    of_this_machine = {"python", "aiohttp", "sqlite", "nix settings", "disk", "store"}
    wrong = {name: check for name, check in found.items() if not check.ok}
    assert wrong.keys() <= of_this_machine, wrong
    assert found["configuration"].detail == "builds o/n"
    assert found["git"].detail == "2.50.1"
    assert found["nix"].detail == "2.34.9"
    assert found["token"].detail.startswith("token of ")
    assert found["clock"].detail.endswith("; nothing to compare it with")
    assert "c4n4ry" not in doctor.render(list(found.values()), colour=False)
    assert TOKEN not in repr(found)


async def test_a_whole_round_where_nothing_is_well(
    tmp_path: Path, nowhere: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    chosen = settings(
        tmp_path,
        f"""
        [github]
        api_url = "{nowhere}"
        webhook_secret_file = "{secret}"
        public_webhook_url = "{nowhere}/webhook"
        [cache]
        url = "{nowhere}"
        public_key = "{KEY}"
        """,
    )
    found = by_name(
        await doctor.checks(
            chosen,
            Secrets(),
            {"PATH": str(tmp_path / "empty")},
            available=_not_confined,
        )
    )
    wrong = {name: check for name, check in found.items() if not check.ok}
    assert wrong.keys() >= {
        "secrets",
        "git",
        "nix",
        "nix settings",
        "bwrap",
        "sandbox",
        "token",
        "funnel",
        "cache",
    }
    assert all(check.fix for check in wrong.values())
    assert found["secrets"].fix == f"chmod o= {secret}"
    assert found["sandbox"].detail == "user namespaces are switched off"


async def test_this_machine_s_own_programs_are_judged(tmp_path: Path) -> None:
    """Whatever is installed here: a version, or that it is missing; never an error."""
    found = by_name(
        await doctor.checks(
            settings(
                tmp_path, '[github]\nwebhook = false\napi_url = "https://0.0.0.0:9"'
            ),
            Secrets(),
            os.environ,
        )
    )
    assert found["git"].detail[0].isdigit()
    assert found["sqlite"].detail.startswith(sqlite3.sqlite_version)
    assert found["sqlite"].ok is (
        known_holes.known_hole("sqlite", sqlite3.sqlite_version) is None
    )


async def test_what_is_not_used_is_not_asked_for(tmp_path: Path) -> None:
    document = {
        "state_dir": str(tmp_path),
        "github": {"webhook": False, "api_url": "http://[::1]:9"},
        "build": {"sandbox": False},
        "repository": [{"name": "o/n", "builder": "command", "command": ["true"]}],
    }
    found = by_name(await doctor.checks(config.parse(document), Secrets(), {}))
    assert found.keys().isdisjoint({"nix", "nix settings", "bwrap", "cache", "funnel"})
    assert found["sandbox"].detail.startswith("off by build.sandbox")


@pytest.mark.parametrize(
    ("name", "version", "good"),
    [
        ("aiohttp", "3.14.4", False),
        ("aiohttp", "3.14.5", True),
        ("aiohttp", "3.15.0", True),
        ("git", "2.39.5", False),
        ("git", "2.43.7", True),
        ("git", "2.49.0", False),
        ("git", "2.50.1", True),
        ("git", "2.51.0", True),
        ("nix", "2.8.0", False),
        ("nix", "2.28.8", True),
        ("nix", "2.29.9", False),
        ("nix", "2.31.5", False),
        ("nix", "2.34.9", True),
        ("nix", "2.35.3", True),
        ("nix", "2.36.0", True),
        ("sqlite", "3.6.0", True),
        ("sqlite", "3.40.1", False),
        ("sqlite", "3.44.6", True),
        ("sqlite", "3.50.6", False),
        ("sqlite", "3.51.2", False),
        ("sqlite", "3.51.3", True),
        ("sqlite", "3.52.0", True),
        ("bwrap", "0.8.0", True),
        ("bwrap", "0.4.0", False),
        ("python", "3.11.0", True),
    ],
)
def test_versions_with_known_holes(name: str, version: str, good: bool) -> None:
    check = program_checks.library(name, version)
    assert check.ok is good
    assert good or check.fix.startswith(f"install {name} ")


def test_a_distribution_may_have_mended_an_old_version(tmp_path: Path) -> None:
    changelog = tmp_path / "git" / "changelog.Debian.gz"
    changelog.parent.mkdir()
    assert not known_holes.mended_by_debian("git", tmp_path)
    changelog.write_bytes(gzip.compress(b"git (2.39.5-1)\n  * New release.\n"))
    assert not known_holes.mended_by_debian("git", tmp_path)
    changelog.write_bytes(gzip.compress(b"  * Fix CVE-2025-48384\n"))
    assert known_holes.mended_by_debian("git", tmp_path)
    changelog.write_bytes(b"not gzip")
    assert not known_holes.mended_by_debian("git", tmp_path)


@pytest.mark.parametrize(
    ("version", "sandbox", "who", "words"),
    [
        ("2.8.0", "true", SERVICE, None),
        ("2.34.9", "true", SERVICE, None),
        ("2.34.9", "false", SERVICE, "builds are not confined: sandbox = false"),
        ("2.34.9", '"relaxed"', SERVICE, 'not confined: sandbox = "relaxed"'),
        ("2.34.9", "tru", SERVICE, "does not tell its settings"),
        ("2.8.0", "true", Identity("root", frozenset(), True), "trusts the user root"),
        (
            "2.34.9",
            "true",
            Identity("alice", frozenset({"users", "wheel"}), False),
            "trusts the user alice",
        ),
    ],
)
async def test_nix_must_confine_builds_and_not_trust_us(
    programs: Path, version: str, sandbox: str, who: Identity, words: str | None
) -> None:
    put_nix(programs, version, sandbox)
    check = await program_checks.nix_settings(
        str(programs / "nix"), run=process.run, environ={"PATH": "/bin"}, who=who
    )
    assert check.ok is (words is None)
    assert (words or "builds are confined") in check.detail
    assert "c4n4ry" not in check.detail + check.fix


def test_who_we_are_is_what_the_system_says() -> None:
    who = program_checks.identity()
    assert who.root is (os.geteuid() == 0)
    assert who.trusted([who.user])
    assert who.trusted(["*"])
    assert all(who.trusted([f"@{group}"]) for group in who.groups)
    assert not SERVICE.trusted(["root", "@wheel", 7])
    assert Identity("toor", frozenset(), root=True).trusted([])


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (CredentialRejected("401: bad credentials"), "make a new token"),
        (GitHubBusy("rate limit until 12:00", until=0), "wait"),
        (GitHubUnavailable("no route"), "see whether this machine reaches"),
        (GitHubRefused("403", status=403, permanent=True), "see whether this machine"),
    ],
)
async def test_each_answer_about_the_token_has_its_remedy(
    error: GitHubError, fix: str
) -> None:
    async def ask() -> str:
        raise error

    check = await examinations.token(ask)
    assert (check.ok, check.detail) == (False, str(error))
    assert check.fix.startswith(fix)


@pytest.mark.parametrize(
    ("skew", "words"),
    [(0, None), (-7200, "7200 s ahead of"), (300, "300 s behind")],
)
async def test_a_wrong_clock_is_seen(
    aiohttp_server: AiohttpServer, skew: int, words: str | None
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(headers={"Date": formatdate(time.time() + skew)})

    application = web.Application()
    application.router.add_get("/", handler)
    server = await aiohttp_server(application)
    check = await examinations.clock(str(server.make_url("/")))
    assert check.ok is (words is None)
    assert (words or ", as at http") in _rounded(check.detail, abs(skew))


async def test_a_clock_that_nobody_tells_is_no_fault(nowhere: str) -> None:
    check = await examinations.clock(f"{nowhere}/")
    assert check.ok
    assert check.detail.endswith("did not tell its own")


def _rounded(detail: str, skew: int) -> str:
    """Seconds may pass between asking and answering; a minute is no such number."""

    def near(found: re.Match[str]) -> str:
        return f"{skew} s" if abs(int(found[1]) - skew) < 60 else found[0]

    return re.sub(r"\b(\d+) s\b", near, detail)


async def test_the_public_address_is_asked_as_the_server_asks_it(
    tmp_path: Path, answering: Answering
) -> None:
    """With a server the doctor says what the server would; without one, that."""
    url = f"{await answering([SECRET])}/webhook"
    chosen = settings(tmp_path, f'[github]\npublic_webhook_url = "{url}"')
    good = await examinations.funnel(chosen, [SECRET])
    assert (good.name, good.ok) == ("funnel", True)
    absent = await examinations.funnel(chosen, [b"another one"])
    assert absent.detail.startswith("the server does not run")
    with await asyncio.to_thread(host.lock_state_dir, tmp_path):
        wrong = await examinations.funnel(chosen, [b"another one"])
    assert wrong.detail.startswith("reachable, but not us: ")
    assert "401" in wrong.detail
    unread = await examinations.funnel(chosen, [])
    assert (unread.ok, "could not be read" in unread.detail) == (False, True)
    assert all(check.fix for check in (absent, wrong, unread))


def test_a_lock_is_seen_without_being_taken(tmp_path: Path) -> None:
    assert not host.is_locked(tmp_path / "nowhere")
    with host.lock_state_dir(tmp_path):
        assert host.is_locked(tmp_path)
    assert not host.is_locked(tmp_path)
    with host.lock_state_dir(tmp_path):
        pass


async def test_a_full_disk_is_seen(tmp_path: Path) -> None:
    assert (await examinations.room("disk", tmp_path, 0)).ok
    full = await examinations.room("disk", tmp_path, 2**62)
    assert not full.ok
    assert f"free at {tmp_path}" in full.detail


def test_the_round_is_shown_line_by_line() -> None:
    checks = [
        Check("git", True, "2.50.1"),
        Check("webhook", False, "no answer\x1b[2J", "start it"),
    ]
    assert doctor.render(checks, colour=False).splitlines() == [
        "✓ git      2.50.1",
        "✗ webhook  no answer\\x1b[2J",
        "           → start it",
        "",
        "1 of 2 checks found something",
    ]
    assert doctor.render(checks, colour=True).startswith("\x1b[32m✓\x1b[0m git")
    assert doctor.render(checks[:1], colour=False).endswith("\nall well")
