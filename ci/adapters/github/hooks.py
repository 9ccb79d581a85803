"""A repository's webhooks and what GitHub delivered through them.

https://docs.github.com/en/rest/repos/webhooks; the token needs `Webhooks: read`, and
`write` to make or change one and to have something delivered again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ci.adapters.github import GitHub
from ci.adapters.github.api import Api
from ci.errors import GitHubUnavailable

HOOKS = "/repos/{owner}/{repo}/hooks?per_page=100"
NEW_HOOK = "/repos/{owner}/{repo}/hooks"
ONE_HOOK = "/repos/{owner}/{repo}/hooks/{hook}"
PINGS = "/repos/{owner}/{repo}/hooks/{hook}/pings"
DELIVERIES = "/repos/{owner}/{repo}/hooks/{hook}/deliveries?per_page=100"
ATTEMPTS = "/repos/{owner}/{repo}/hooks/{hook}/deliveries/{delivery}/attempts"
MOST_PAGES = 50
ENTERPRISE = "/api/v3"


@dataclass(frozen=True)
class Delivery:
    """One try of GitHub's to deliver; tries of the same event share the `guid`.

    `at` is in milliseconds since the epoch.
    """

    id: int
    guid: str
    event: str
    at: int
    ok: bool


@dataclass(frozen=True)
class Hook:
    """A repository's webhook as GitHub lists it; its secret is never told.

    `updated_at` is in milliseconds by GitHub's clock; `last_code` is the HTTP status
    that its newest delivery met, None when there was none or it met nobody.
    """

    id: str
    url: str
    content_type: str
    events: frozenset[str]
    active: bool
    verifies_tls: bool
    has_secret: bool
    updated_at: int
    last_code: int | None


async def listed(github: GitHub, repo: str) -> list[Hook]:
    """The repository's webhooks, whoever made them.

    Raises GitHubRefused (403 or 404) when the credential may not see them;
    GitHubUnavailable, GitHubBusy, CredentialRejected. So do the others here.
    """

    async def ask(api: Api, place: Mapping[str, str], token: str) -> list[Hook]:
        return [_hook(entry) for entry in await _all(api, HOOKS, place, token)]

    return await github.ask(repo, ask)


async def find(github: GitHub, repo: str, url: str) -> list[str]:
    """Ids of the repository's webhooks that deliver to `url`."""
    wanted = url.rstrip("/")
    return [hook.id for hook in await listed(github, repo) if hook.url == wanted]


async def create(github: GitHub, repo: str, url: str, secret: str) -> str:
    """Make a webhook for pushes that delivers to `url`; return its id. GitHub pings it."""

    async def ask(api: Api, place: Mapping[str, str], token: str) -> str:
        wanted = {"name": "web", "active": True, "events": ["push"]}
        document = {**wanted, "config": _config(url, secret)}
        made = await api.create(NEW_HOOK, place, document, token)
        return str(int(made["id"]))

    return await github.ask(repo, ask)


async def update(github: GitHub, repo: str, hook: Hook, url: str, secret: str) -> None:
    """Have a webhook deliver pushes to `url`, signed with `secret`.

    The events that it sends already it goes on sending.
    """

    async def ask(api: Api, place: Mapping[str, str], token: str) -> None:
        document = {"active": True, "config": _config(url, secret)}
        if not sends_pushes(hook):
            document["add_events"] = ["push"]
        where = {**place, "hook": hook.id}
        await api.patch(ONE_HOOK, where, data=document, oauth_token=token)

    await github.ask(repo, ask)


async def ping(github: GitHub, repo: str, hook: str) -> None:
    """Have GitHub send a ping; it says yes before it does so."""

    async def ask(api: Api, place: Mapping[str, str], token: str) -> None:
        where = {**place, "hook": hook}
        await api.post(PINGS, where, data=b"", oauth_token=token)

    await github.ask(repo, ask)


def new_page(api_url: str, repo: str) -> str:
    """Where a person makes a webhook by hand: github.com, or the Enterprise Server."""
    enterprise = api_url.endswith(ENTERPRISE)
    web = api_url.removesuffix(ENTERPRISE) if enterprise else "https://github.com"
    return f"{web}/{repo}/settings/hooks/new"


def sends_pushes(hook: Hook) -> bool:
    """Whether it is told of pushes."""
    return not hook.events.isdisjoint({"push", "*"})


async def deliveries(
    github: GitHub, repo: str, hook: str, since: int
) -> list[Delivery]:
    """What was delivered, or should have been, since then (ms); newest first."""

    async def ask(api: Api, place: Mapping[str, str], token: str) -> list[Delivery]:
        entries = await _all(
            api,
            DELIVERIES,
            {**place, "hook": hook},
            token,
            lambda page: any(_delivery(entry).at < since for entry in page),
        )
        return [found for found in map(_delivery, entries) if found.at >= since]

    return await github.ask(repo, ask)


async def redeliver(github: GitHub, repo: str, hook: str, delivery: int) -> None:
    """Have GitHub deliver again; it says yes before it does so."""

    async def ask(api: Api, place: Mapping[str, str], token: str) -> None:
        where = {**place, "hook": hook, "delivery": str(delivery)}
        await api.post(ATTEMPTS, where, data=b"", oauth_token=token)

    await github.ask(repo, ask)


async def _all(
    api: Api,
    url: str,
    place: Mapping[str, str],
    token: str,
    enough: Callable[[list[Any]], bool] = lambda page: False,
) -> list[Any]:
    """A list, page by page as GitHub's own links lead, up to one that is `enough`."""
    found: list[Any] = []
    for _ in range(MOST_PAGES):
        reply = await api.look(url, place, token)
        if not isinstance(reply.document, list):
            raise GitHubUnavailable("GitHub answered something else than a list")
        found += reply.document
        if not reply.more or enough(reply.document):
            break
        url, place = reply.more, {}
    return found


def _delivery(entry: Mapping[str, Any]) -> Delivery:
    return Delivery(
        id=int(entry["id"]),
        guid=str(entry["guid"]),
        event=str(entry["event"]),
        at=_milliseconds(entry["delivered_at"]),
        ok=200 <= int(entry["status_code"]) < 300,
    )


def _config(url: str, secret: str) -> dict[str, str]:
    form = {"content_type": "json", "insecure_ssl": "0"}
    return {"url": url, "secret": secret, **form}


def _hook(entry: Mapping[str, Any]) -> Hook:
    config = dict(entry["config"])
    code = dict(entry.get("last_response") or {}).get("code")
    return Hook(
        id=str(int(entry["id"])),
        url=str(config.get("url")).rstrip("/"),
        content_type=str(config.get("content_type", "form")),
        events=frozenset(map(str, entry["events"])),
        active=bool(entry["active"]),
        verifies_tls=str(config.get("insecure_ssl", "0")) == "0",
        has_secret=bool(config.get("secret")),
        updated_at=_milliseconds(entry["updated_at"]),
        last_code=int(code) if code else None,
    )


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
