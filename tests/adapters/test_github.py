"""The GitHub adapter against a GitHub that checks every request by its own contract."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings, strategies as st

from ci.adapters.github import App, Credential, GitHub, Token
from ci.adapters.github.clock import Stopwatch
from ci.errors import (
    BuildServerError,
    CredentialRejected,
    GitHubBusy,
    GitHubError,
    GitHubRefused,
    GitHubUnavailable,
    NetworkDown,
)
from ci.models import StatusState
from tests.fakes import misbehave
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.misbehave import Reply
from tests.fakes.proxy import Stall, fault_proxy

REPO = "Bullish-Design/nix-terminal"
SHA = "6dcb09b5b57875f334f61aebed695e2e4193db5e"
APP_ID = "4711"
# Seconds: GitHub tells moments in whole ones, in two headers.
ROUNDED = 2.5

Keys = tuple[str, str]


@pytest.fixture
async def server() -> AsyncIterator[FakeGitHub]:
    async with FakeGitHub() as running:
        yield running


@pytest.fixture(scope="module")
def keys() -> Keys:
    """A GitHub App's private and public key in PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


@asynccontextmanager
async def connected(
    url: str, credential: Credential | None = None, **options: Any
) -> AsyncIterator[GitHub]:
    github = GitHub(url, lambda: credential or Token(TOKEN), **options)
    try:
        yield github
    finally:
        await github.close()


async def post(github: GitHub, **changes: Any) -> None:
    status = {
        "state": StatusState.SUCCESS,
        "context": "build-server",
        "description": "✓ 14 targets · 3m 12s",
        "target_url": "http://build-server:8000/builds/412",
    }
    repo = changes.pop("repo", REPO)
    sha = changes.pop("sha", SHA)
    await github.post_status(repo, sha, **(status | changes))


async def test_a_status_arrives_as_it_was_meant(server: FakeGitHub) -> None:
    async with connected(server.url + "/") as github:
        await post(github)
    (status,) = server.statuses(SHA)
    assert (status.repo, status.state, status.context) == (
        REPO,
        "success",
        "build-server",
    )
    assert status.description == "✓ 14 targets · 3m 12s"
    assert status.target_url == "http://build-server:8000/builds/412"


def _json(body: str) -> tuple[bytes, dict[str, str]]:
    return body.encode(), {"Content-Type": "application/json"}


BAD_DAYS: list[tuple[Reply, type[GitHubError]]] = [
    (misbehave.moved(301, f"/repos/{REPO}/statuses/{SHA}"), GitHubUnavailable),
    (misbehave.moved(302, f"/repos/{REPO}/statuses/{SHA}"), GitHubUnavailable),
    (misbehave.moved(307, f"/repos/{REPO}/statuses/{SHA}"), GitHubUnavailable),
    (misbehave.moved(308, "http://127.0.0.1:9/elsewhere"), GitHubUnavailable),
    (misbehave.secondary_limit(30), GitHubBusy),
    (misbehave.secondary_limit(30, status=429), GitHubBusy),
    (misbehave.secondary_limit(None), GitHubBusy),
    (misbehave.primary_limit(1800), GitHubBusy),
    (misbehave.primary_limit(1800, status=429), GitHubBusy),
    (replace(misbehave.truncated(429), silence=60), GitHubBusy),
    (
        replace(
            misbehave.server_error(503),
            headers={"Retry-After": "20"},
            silence=20,
            name="503-retry-after",
        ),
        GitHubBusy,
    ),
    (misbehave.unauthorized(), CredentialRejected),
    (misbehave.truncated(401), CredentialRejected),
    (misbehave.forbidden(), GitHubRefused),
    (misbehave.not_found(), GitHubRefused),
    (misbehave.unknown_sha(SHA), GitHubRefused),
    (misbehave.invalid("This SHA and context has reached the maximum"), GitHubRefused),
    (Reply("422-{}", 422, b"{}"), GitHubRefused),
    (misbehave.html(422), GitHubRefused),
    (misbehave.server_error(400), GitHubUnavailable),
    (misbehave.server_error(410), GitHubUnavailable),
    (misbehave.server_error(500), GitHubUnavailable),
    (misbehave.server_error(502), GitHubUnavailable),
    (misbehave.server_error(520), GitHubUnavailable),
    (misbehave.server_error(599), GitHubUnavailable),
    (misbehave.html(), GitHubUnavailable),
    (misbehave.html(200), GitHubUnavailable),
    (Reply("204", 204), GitHubUnavailable),
    (Reply("null", 201, *_json("null")), GitHubUnavailable),
    (Reply("list", 201, *_json("[]")), GitHubUnavailable),
    (Reply("another-state", 201, *_json('{"state": "failure"}')), GitHubUnavailable),
    (
        Reply(
            "another-context",
            201,
            *_json('{"state": "success", "context": "default"}'),
        ),
        GitHubUnavailable,
    ),
    (Reply("deep", 201, *_json("[" * 100_000)), GitHubUnavailable),
    (misbehave.truncated(), GitHubUnavailable),
    (misbehave.charset(), GitHubUnavailable),
    (misbehave.reset(accept=False), GitHubUnavailable),
    (misbehave.reset(accept=True), GitHubUnavailable),
    (misbehave.slow(60), GitHubUnavailable),
    (misbehave.endless(2 << 20), GitHubUnavailable),
]


@pytest.mark.parametrize(
    ("reply", "expected"), BAD_DAYS, ids=[reply.name for reply, _ in BAD_DAYS]
)
async def test_a_bad_day_has_one_error_and_no_second_request(
    server: FakeGitHub, reply: Reply, expected: type[GitHubError]
) -> None:
    server.misbehave(reply)
    # Long enough for the request to arrive first, beside whatever else runs here.
    patience = 2 if reply.delay else 20
    async with connected(server.url, timeout=patience) as github:
        with pytest.raises(GitHubError) as caught:
            await post(github)
    assert type(caught.value) is expected
    assert len(str(caught.value)) > 10
    assert TOKEN not in str(caught.value)
    assert len(server.requests) == 1
    assert len(server.taken) == reply.accept


@pytest.mark.parametrize("value", ["9" * 400, "9" * 17, "unlimited", ""])
async def test_a_taken_status_is_not_lost_to_limits_that_nobody_can_read(
    server: FakeGitHub, value: str
) -> None:
    body, headers = _json('{"state": "success", "context": "BUILD-SERVER"}')
    names = ("Limit", "Remaining", "Reset")
    limits = {f"X-RateLimit-{name}": value for name in names}
    server.misbehave(Reply("limits", 201, body, headers | limits))
    async with connected(server.url) as github:
        await post(github)


@pytest.mark.parametrize(
    ("reply", "permanent"),
    [
        (misbehave.not_found(), False),
        (misbehave.forbidden(), False),
        (misbehave.unknown_sha(SHA), False),
        (misbehave.invalid("description is too long"), True),
        (Reply("empty", 422, b""), True),
    ],
)
async def test_only_a_broken_rule_is_refused_for_good(
    server: FakeGitHub, reply: Reply, permanent: bool
) -> None:
    server.misbehave(reply)
    async with connected(server.url) as github:
        with pytest.raises(GitHubRefused) as caught:
            await post(github)
    assert caught.value.status == reply.status
    assert caught.value.permanent is permanent


@pytest.mark.parametrize(
    "changes",
    [
        {"repo": "just-a-name"},
        {"repo": "../.."},
        {"repo": "a/b/../../user"},
        {"repo": "http://elsewhere/x"},
        {"sha": SHA[:7]},
        {"sha": "refs/heads/dev"},
        {"sha": SHA.upper()},
    ],
)
async def test_what_could_go_elsewhere_is_never_sent(
    server: FakeGitHub, changes: dict[str, str]
) -> None:
    async with connected(server.url) as github:
        with pytest.raises(GitHubRefused) as caught:
            await post(github, **changes)
    assert caught.value.permanent
    assert server.requests == []


@pytest.fixture
def black_hole() -> Iterator[str]:
    """An address to which connections are begun and never made: packets are lost there."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Nobody accepts them, and there is no room for more.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_packets_that_are_lost_are_not_waited_for(black_hole: str) -> None:
    begun = time.monotonic()
    async with connected(black_hole, timeout=0.3) as github:
        with pytest.raises(GitHubUnavailable):
            await post(github)
    # The kernel itself would try for two minutes.
    assert time.monotonic() - begun < 30


async def test_half_a_connection_is_not_waited_for(server: FakeGitHub) -> None:
    """The request arrives, the answer stops in the middle, and nothing more is said."""
    async with fault_proxy(server.port) as network:
        network.fault = Stall(after=30)
        async with connected(network.url(server.url), timeout=4) as github:
            with pytest.raises(GitHubUnavailable):
                await post(github)
    assert len(server.taken) == 1


async def test_nobody_home_is_unavailable(nowhere: str) -> None:
    async with connected(nowhere) as github:
        with pytest.raises(GitHubUnavailable, match="no answer"):
            await post(github)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (lambda: misbehave.secondary_limit(30), 30),
        (lambda: misbehave.secondary_limit(90, status=429), 90),
        (lambda: misbehave.primary_limit(1800), 1800),
        (lambda: misbehave.secondary_limit(None), 60),
        (lambda: misbehave.secondary_limit(10**9), 86400),
        (
            lambda: replace(
                misbehave.primary_limit(1800), headers={"Retry-After": "7"}
            ),
            7,
        ),
    ],
    ids=["named", "429", "hourly", "unnamed", "absurd", "both"],
)
async def test_silence_is_as_long_as_asked_and_kept_by_everyone(
    server: FakeGitHub, reply: Callable[[], Reply], seconds: float
) -> None:
    begun = time.time()
    server.misbehave(reply())
    async with connected(server.url) as github:
        with pytest.raises(GitHubBusy) as caught:
            await post(github)
        with pytest.raises(GitHubBusy) as again:
            await github.check_credential()
    assert _ends_in(seconds, caught.value.until, begun)
    assert again.value.until == pytest.approx(caught.value.until, abs=ROUNDED)
    assert len(server.requests) == 1


def _ends_in(seconds: float, until: float, begun: float) -> bool:
    """Whether it is so long after a moment between `begun` and now."""
    return begun - ROUNDED <= until - seconds <= time.time() + ROUNDED


async def test_after_the_silence_the_next_request_is_sent(server: FakeGitHub) -> None:
    server.misbehave(misbehave.secondary_limit(1))
    async with connected(server.url) as github:
        with pytest.raises(GitHubBusy) as caught:
            await post(github)
        await asyncio.sleep(caught.value.until - time.time())
        await post(github)
    assert len(server.taken) == 1


async def test_the_hour_is_counted_by_githubs_clock(server: FakeGitHub) -> None:
    """A host whose clock is an hour late must not wait two."""
    ahead, begun = 3600, time.time()
    reply = misbehave.primary_limit(ahead + 600)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(begun + ahead))
    server.misbehave(replace(reply, headers={**reply.headers, "Date": date}))
    async with connected(server.url) as github:
        with pytest.raises(GitHubBusy) as caught:
            await post(github)
    assert _ends_in(600, caught.value.until, begun)


async def test_a_rejected_token_is_known_until_it_changes(server: FakeGitHub) -> None:
    held: list[Credential | None] = [Token("revoked")]
    github = GitHub(server.url, lambda: held[0])
    assert github.trouble() == ""
    with pytest.raises(CredentialRejected):
        await post(github)
    assert "Bad credentials" in github.trouble()
    assert await github.git_token(REPO) is None
    held[0] = Token(TOKEN)
    assert github.trouble() == ""
    await post(github)
    assert await github.git_token(REPO) == TOKEN
    held[0] = None
    assert "token_file" in github.trouble()
    with pytest.raises(CredentialRejected, match="token_file"):
        await post(github)
    await github.close()


async def test_a_forgiven_token_is_tried_again(server: FakeGitHub) -> None:
    async with connected(server.url) as github:
        server.misbehave(misbehave.unauthorized())
        with pytest.raises(CredentialRejected):
            await post(github)
        github.forgive()
        assert github.trouble() == ""
        assert await github.check_credential() == "token of octocat"


async def test_the_tokens_end_is_told(server: FakeGitHub) -> None:
    server.token_expiry = "2026-12-24 18:00:00 UTC"
    async with connected(server.url) as github:
        told = await github.check_credential()
    assert told == "token of octocat, expires 2026-12-24 18:00:00 UTC"


async def test_an_app_posts_with_one_token_per_repository(
    server: FakeGitHub, keys: Keys
) -> None:
    private, server.apps[APP_ID] = keys
    async with connected(server.url, App(APP_ID, private)) as github:
        assert await github.check_credential() == "GitHub App octoapp"
        await asyncio.gather(post(github), github.git_token(REPO))
        await post(github, context="build-server/checks.web-test")
        await post(github, repo="Bullish-Design/other")
        token = await github.git_token(REPO)
    assert len(server.taken) == 3
    assert len(server.installation_tokens) == 2
    assert token in server.installation_tokens
    assert private not in repr(App(APP_ID, private))


async def test_an_installation_token_that_died_is_replaced(
    server: FakeGitHub, keys: Keys
) -> None:
    private, server.apps[APP_ID] = keys
    async with connected(server.url, App(APP_ID, private)) as github:
        await post(github)
        server.installation_tokens.clear()
        await post(github)
    assert len(server.taken) == 2


async def test_an_installation_token_near_its_end_is_not_used(
    server: FakeGitHub, keys: Keys
) -> None:
    private, server.apps[APP_ID] = keys
    server.token_life = timedelta(minutes=4)
    async with connected(server.url, App(APP_ID, private)) as github:
        await post(github)
        await post(github)
    assert len(server.installation_tokens) == 2


@pytest.mark.parametrize("clock", ["wall", "boot"])
async def test_an_installation_token_does_not_outlive_the_hosts_sleep(
    server: FakeGitHub, keys: Keys, clock: str
) -> None:
    """Git would be refused with it, and a build would bear the blame."""
    private, server.apps[APP_ID] = keys
    clocks = {"wall": 1e9, "boot": 100.0}
    credential = App(APP_ID, private)
    github = GitHub(
        server.url,
        lambda: credential,
        stopwatch=lambda: Stopwatch(lambda: (clocks["wall"], clocks["boot"])),
    )
    try:
        first = await github.git_token(REPO)
        clocks[clock] += 600
        assert await github.git_token(REPO) == first
        clocks[clock] += 8 * 3600
        second = await github.git_token(REPO)
        assert second not in (None, first)
        clocks[clock] -= 3600
        assert await github.git_token(REPO) == second
    finally:
        await github.close()


async def test_an_app_that_github_does_not_know_is_rejected(
    server: FakeGitHub, keys: Keys
) -> None:
    async with connected(server.url, App(APP_ID, keys[0])) as github:
        with pytest.raises(CredentialRejected):
            await post(github)
        assert github.trouble()
        assert await github.git_token(REPO) is None
    assert len(server.requests) == 1


async def test_a_key_that_is_no_key_says_what_is_wanted(server: FakeGitHub) -> None:
    async with connected(server.url, App(APP_ID, "no key")) as github:
        with pytest.raises(CredentialRejected, match="app_key_file must hold"):
            await post(github)
        assert "app_key_file" in github.trouble()
    assert server.requests == []


async def test_a_wrong_clock_does_not_condemn_the_app(
    server: FakeGitHub, keys: Keys
) -> None:
    """After a sleep the clock may be behind for a while: the JWT is stale then."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 900))
    late = replace(misbehave.unauthorized(), headers={"Date": date})
    private, server.apps[APP_ID] = keys
    server.misbehave(late)
    async with connected(server.url, App(APP_ID, private)) as github:
        with pytest.raises(GitHubUnavailable, match="clock"):
            await post(github)
        assert github.trouble() == ""
        await post(github)
    assert len(server.taken) == 1


async def test_git_waits_for_a_token_that_cannot_be_made_now(
    server: FakeGitHub, keys: Keys
) -> None:
    private, server.apps[APP_ID] = keys
    server.misbehave(misbehave.server_error(502))
    async with connected(server.url, App(APP_ID, private)) as github:
        with pytest.raises(NetworkDown):
            await github.git_token(REPO)
        server.repositories = set()
        assert await github.git_token(REPO) is None


@pytest.mark.parametrize(
    "body",
    ["null", "[]", "{}", '{"token": "t", "expires_at": 5}', '{"token": "t", "exp'],
)
async def test_a_token_that_makes_no_sense_is_not_used(
    server: FakeGitHub, keys: Keys, body: str
) -> None:
    private, server.apps[APP_ID] = keys
    server.misbehave(None, Reply("mint", 201, *_json(body)))
    async with connected(server.url, App(APP_ID, private)) as github:
        with pytest.raises(GitHubUnavailable):
            await post(github)
        await post(github)
    assert len(server.taken) == 1


def test_cryptography_is_loaded_for_apps_only() -> None:
    program = (
        "import sys, ci.adapters.github\n"
        "print([m for m in ('cryptography', 'jwt') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Content-Type",
            "Content-Encoding",
            "Date",
            "Location",
            "Link",
            "Retry-After",
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
            "Transfer-Encoding",
        ]
    ),
    st.one_of(
        st.sampled_from(
            [
                "0",
                "-1",
                "1e400",
                "9" * 400,
                "nan",
                "²",
                "gzip",
                "br",
                "chunked",
                'application/json; charset="',
                "application/json; charset=utf-16",
                "application/json; charset=hex",
                "text/plain",
                "Thu, 01 Jan 1970 00:00:00 GMT",
                "Thu, 99 Foo 99999 99:00:00 +9999",
            ]
        ),
        st.text(st.characters(codec="latin-1", categories=["L", "N", "P"])),
    ),
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["message", "errors", "state", "context", "code"]), inner
        )
    ),
    max_leaves=6,
)
BODIES = st.one_of(
    st.binary(max_size=40),
    DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    st.just(b"[" * 100_000),
)
STATUSES = st.one_of(
    st.just(201),
    st.sampled_from([200, 201, 204, 301, 401, 403, 422, 429, 500, 503]),
    st.integers(200, 999),
)


@settings(max_examples=300, deadline=None)
@given(status=STATUSES, headers=HEADERS, body=BODIES)
def test_no_reply_at_all_escapes_as_another_error(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    sent = {"Content-Type": "application/json"} | headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    reply = f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1") + body

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            head = request.lower().split(b"content-length: ")[1]
            await reader.readexactly(int(head.split(b"\r\n")[0]))
            writer.write(reply)
            await writer.drain()
        finally:
            writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, connected(f"http://127.0.0.1:{port}", timeout=2) as github:
            with pytest.raises(BuildServerError) as caught:
                await post(github)
        assert isinstance(caught.value, GitHubError)
        assert str(caught.value).isprintable()

    asyncio.run(ask())
