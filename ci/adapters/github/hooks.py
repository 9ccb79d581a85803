"""A repository's webhooks and what GitHub delivered through them.

https://docs.github.com/en/rest/repos/webhooks; the token needs `Webhooks: read`, and
`write` to have something delivered again.
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
DELIVERIES = "/repos/{owner}/{repo}/hooks/{hook}/deliveries?per_page=100"
ATTEMPTS = "/repos/{owner}/{repo}/hooks/{hook}/deliveries/{delivery}/attempts"
MOST_PAGES = 50


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


async def find(github: GitHub, repo: str, url: str) -> list[str]:
    """Ids of the repository's webhooks that deliver to `url`.

    Raises GitHubRefused (403 or 404) when the credential may not see them;
    GitHubUnavailable, GitHubBusy, CredentialRejected. So do the others here.
    """

    async def ask(api: Api, place: Mapping[str, str], token: str) -> list[str]:
        return [
            str(int(hook["id"]))
            for hook in await _all(api, HOOKS, place, token)
            if str(dict(hook["config"]).get("url")).rstrip("/") == url.rstrip("/")
        ]

    return await github.ask(repo, ask)


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
    moment = datetime.fromisoformat(entry["delivered_at"])
    return Delivery(
        id=int(entry["id"]),
        guid=str(entry["guid"]),
        event=str(entry["event"]),
        at=int(moment.timestamp() * 1000),
        ok=200 <= int(entry["status_code"]) < 300,
    )
