"""Branches, webhooks and deliveries, asked of a GitHub that holds us to its contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from ci.adapters.github import GitHub, Token, hooks, refs
from ci.errors import GitHubBusy, GitHubRefused, GitHubUnavailable
from ci.models import StatusState
from tests.fakes import misbehave
from tests.fakes.github import TOKEN, FakeGitHub
from tests.fakes.push import REPO, make_ping, make_push
from tests.fakes.repository import Origin
from tests.fakes.waiting import wait_until

NOWHERE = "http://127.0.0.1:1/webhook"


@pytest.fixture
async def server() -> AsyncIterator[FakeGitHub]:
    async with FakeGitHub() as running:
        yield running


@pytest.fixture
async def github(server: FakeGitHub) -> AsyncIterator[GitHub]:
    client = GitHub(server.url, lambda: Token(TOKEN))
    yield client
    await client.close()


async def test_an_unchanged_branch_is_told_in_one_word(
    server: FakeGitHub, github: GitHub, tmp_path: Path
) -> None:
    origin = await asyncio.to_thread(Origin, tmp_path / "origin")
    first = await asyncio.to_thread(origin.commit, branch="feature/x")
    server.hooks.origins[REPO] = origin
    head = await refs.head(github, REPO, "feature/x")
    assert head is not None
    assert head.sha == first
    assert await refs.head(github, REPO, "feature/x", head.etag) is None
    second = await asyncio.to_thread(origin.commit, branch="feature/x")
    moved = await refs.head(github, REPO, "feature/x", head.etag)
    assert moved is not None
    assert moved.sha == second
    with pytest.raises(GitHubRefused) as refused:
        await refs.head(github, REPO, "feature")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "reply",
    [
        misbehave.html(200),
        misbehave.truncated(200),
        misbehave.server_error(502),
        misbehave.moved(301, "https://elsewhere.example/"),
        misbehave.reset(accept=False),
    ],
    ids=lambda reply: reply.name,
)
async def test_nonsense_about_a_branch_is_no_answer(
    server: FakeGitHub, github: GitHub, reply: misbehave.Reply
) -> None:
    # Twice: a connection that was cut is opened again once.
    server.misbehave(reply, reply)
    with pytest.raises(GitHubUnavailable):
        await refs.head(github, REPO, "dev")


async def test_an_unasked_304_is_no_success(server: FakeGitHub, github: GitHub) -> None:
    server.misbehave(misbehave.Reply("304", 304))
    with pytest.raises(GitHubUnavailable):
        await github.check_credential()


async def test_a_limit_stops_questions_too(server: FakeGitHub, github: GitHub) -> None:
    server.misbehave(misbehave.secondary_limit(30))
    for _ in range(2):
        with pytest.raises(GitHubBusy):
            await refs.head(github, REPO, "dev")
    assert len(server.requests) == 1


async def test_our_webhook_is_found_by_its_address(
    server: FakeGitHub, github: GitHub
) -> None:
    server.hooks.add(REPO, "https://elsewhere.example/webhook", hook_id=31)
    server.hooks.add(REPO, "https://host.tailnet.ts.net/webhook")
    found = await hooks.find(github, REPO, "https://host.tailnet.ts.net/webhook/")
    assert found == ["30"]
    assert await hooks.find(github, REPO, "https://host.tailnet.ts.net/") == []


async def test_deliveries_come_page_by_page_up_to_the_time_asked_for(
    server: FakeGitHub, github: GitHub
) -> None:
    hook = server.hooks.add(REPO, NOWHERE)
    server.hooks.page = 3
    for hours in range(9, 0, -1):
        await server.hooks.deliver(hook, make_push(), age=timedelta(hours=hours))
    await server.hooks.deliver(hook, make_ping(), event="ping")
    every = await hooks.deliveries(github, REPO, "30", 0)
    assert [each.event for each in every] == ["ping", *["push"] * 9]
    assert sorted((each.at for each in every), reverse=True) == [e.at for e in every]
    assert not any(each.ok for each in every)
    asked = len(server.requests)
    some = await hooks.deliveries(github, REPO, "30", every[4].at)
    assert some == every[:5]
    assert len(server.requests) == asked + 2


async def test_a_link_to_elsewhere_is_not_followed(
    server: FakeGitHub, github: GitHub
) -> None:
    link = {
        "Link": '<https://elsewhere.example/steal>; rel="next"',
        "Content-Type": "application/json",
    }
    server.misbehave(misbehave.Reply("link", 200, b"[]", link))
    with pytest.raises(GitHubUnavailable, match="not below"):
        await hooks.deliveries(github, REPO, "30", 0)


async def test_a_credential_that_may_not_is_told_so(
    server: FakeGitHub, github: GitHub
) -> None:
    hook = server.hooks.add(REPO, NOWHERE)
    attempt = await server.hooks.deliver(hook, make_push())
    server.hooks.allowed = "read"
    assert len(await hooks.deliveries(github, REPO, "30", 0)) == 1
    with pytest.raises(GitHubRefused) as refused:
        await hooks.redeliver(github, REPO, "30", attempt.id)
    assert refused.value.status == 403
    server.hooks.allowed = "none"
    with pytest.raises(GitHubRefused):
        await hooks.find(github, REPO, NOWHERE)
    # The token is as good as before for everything else.
    assert github.trouble() == ""


async def test_changes_wait_for_one_another(server: FakeGitHub, github: GitHub) -> None:
    """GitHub wants them one by one; the stand-in takes two at once amiss."""
    hook = server.hooks.add(REPO, NOWHERE)
    attempts = [await server.hooks.deliver(hook, make_push()) for _ in range(4)]
    server.misbehave(*[None, misbehave.slow(0.2)] * 2)

    async def post(number: int) -> None:
        await github.post_status(
            REPO,
            f"{number:040x}",
            state=StatusState.SUCCESS,
            context="build-server",
            description="",
            target_url="http://build-server:8000/",
        )

    await asyncio.gather(
        *(hooks.redeliver(github, REPO, "30", each.id) for each in attempts),
        *(post(number) for number in range(4)),
        return_exceptions=True,
    )
    assert len(server.requests) == 8
    assert server.violations == []


@pytest.mark.parametrize(
    ("api", "url", "name"),
    [
        ("https://api.github.com", "https://github.com/o/r.git", "o/r"),
        ("https://api.github.com", "https://github.com/o/r", "o/r"),
        ("https://api.github.com", "git@github.com:o/r.git", "o/r"),
        ("https://api.github.com", "ssh://git@github.com/o/a.b.git", "o/a.b"),
        ("https://api.github.com", "https://gitlab.com/o/r.git", None),
        ("https://api.github.com", "https://github.com/o/r/s.git", None),
        ("https://api.github.com", "/srv/git/o/r.git", None),
        ("https://api.github.com", "file:///o/r.git", None),
        ("https://GHE.example/api/v3", "https://ghe.example/o/r.git", "o/r"),
        ("https://ghe.example/api/v3", "https://github.com/o/r.git", None),
        ("https://api.acme.ghe.com", "https://acme.ghe.com/o/r.git", "o/r"),
    ],
)
def test_which_repositories_the_api_knows(api: str, url: str, name: str | None) -> None:
    assert refs.name_on(api, url) == name


def test_whose_repositories_are_github_s() -> None:
    """Whatever the path is: this decides who is shown the token."""
    assert refs.is_on("https://api.github.com", "https://GitHub.com/o/r/s.git")
    for url in (
        "https://github.com.evil.example/o/r.git",
        "https://github.com@evil.example/o/r.git",
        "https://evil.example/github.com/r.git",
        "git@evil.example:github.com/r.git",
        "/github.com/o/r.git",
    ):
        assert not refs.is_on("https://api.github.com", url), url


async def test_a_webhook_is_made_changed_and_pinged(
    server: FakeGitHub, github: GitHub
) -> None:
    made = await hooks.create(github, REPO, NOWHERE, "first secret")
    (listed,) = await hooks.listed(github, REPO)
    assert (listed.id, listed.url, listed.content_type) == (made, NOWHERE, "json")
    assert hooks.sends_pushes(listed)
    assert (listed.active, listed.verifies_tls, listed.has_secret) == (True, True, True)
    with pytest.raises(GitHubRefused) as refused:
        await hooks.create(github, REPO, NOWHERE, "first secret")
    assert refused.value.status == 422
    (there,) = server.hooks.hooks
    there.events = ("issues",)
    (listed,) = await hooks.listed(github, REPO)
    assert not hooks.sends_pushes(listed)
    await hooks.update(github, REPO, listed, f"{NOWHERE}/2", "second secret")
    assert (there.url, there.secret) == (f"{NOWHERE}/2", b"second secret")
    assert set(there.events) == {"issues", "push"}
    before = len(there.attempts)
    await hooks.ping(github, REPO, made)
    await wait_until(lambda: len(there.attempts) > before, what="a ping")
    assert there.attempts[-1].event == "ping"
    (listed,) = await hooks.listed(github, REPO)
    assert listed.last_code == 502
    with pytest.raises(GitHubRefused) as refused:
        await hooks.ping(github, REPO, "999")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("api_url", "page"),
    [
        ("https://api.github.com", "https://github.com/o/n/settings/hooks/new"),
        ("https://ghe.example/api/v3", "https://ghe.example/o/n/settings/hooks/new"),
    ],
)
def test_the_page_to_click_on_is_on_the_same_github(api_url: str, page: str) -> None:
    assert hooks.new_page(api_url, "o/n") == page
