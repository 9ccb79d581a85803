"""Webhooks and branches of the stand-in for GitHub: what it delivers, and keeps of that.

Deliveries are really POSTed; what did not arrive is remembered and can be asked for again
for three days, as https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks
has it: the newest first, a hundred to a page, further pages by cursor.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote

import aiohttp

from tests.fakes import github_contract
from tests.fakes.push import GITHUB_ID, SECRET, encode, headers, new_guid
from tests.fakes.repository import Origin

KEPT = timedelta(days=3)
TIMEOUT = 10.0

Answer = tuple[int, Any, dict[str, str]]


@dataclass(frozen=True)
class Attempt:
    """One try to deliver; `code` is what the server answered, 502 when nothing did."""

    id: int
    guid: str
    event: str
    body: bytes
    at: datetime
    code: int
    redelivery: bool

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300


@dataclass
class Hook:
    """A repository's webhook; `attempts` oldest first."""

    repo: str
    url: str
    id: int
    secret: bytes
    attempts: list[Attempt] = field(default_factory=list)


class Hooks:
    """All webhooks of one GitHub, and the branches behind its API.

    `allowed`: what the credential may do with them, `none`, `read` or `write`.
    `origins`: full name -> the repository behind it.
    """

    def __init__(self) -> None:
        self.allowed = "write"
        self.origins: dict[str, Origin] = {}
        self.hooks: list[Hook] = []
        self.asked: list[str] = []
        self.page = 100
        self._ids = itertools.count(1000)
        self._tasks: set[asyncio.Task[Attempt]] = set()

    def add(self, repo: str, url: str, *, hook_id: int = 30) -> Hook:
        """Make a webhook for pushes."""
        hook = Hook(repo, url, hook_id, SECRET)
        self.hooks.append(hook)
        return hook

    async def deliver(
        self,
        hook: Hook,
        payload: object,
        *,
        event: str = "push",
        guid: str | None = None,
        age: timedelta = timedelta(0),
    ) -> Attempt:
        """Deliver an event that happened `age` ago; return how that went."""
        body, at = encode(payload), datetime.now(UTC) - age
        return await self._try(hook, event, guid or new_guid(), body, at)

    async def _try(
        self, hook: Hook, event: str, guid: str, body: bytes, at: datetime
    ) -> Attempt:
        told = headers(body, hook.secret, event=event, guid=guid, hook_id=str(hook.id))
        code = 502
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(hook.url, data=body, headers=told) as response,
            ):
                code = response.status
        except (aiohttp.ClientError, TimeoutError):
            pass
        again = any(each.guid == guid for each in hook.attempts)
        attempt = Attempt(next(self._ids), guid, event, body, at, code, again)
        hook.attempts.append(attempt)
        return attempt

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the API answers

    def denied(self, method: str) -> bool:
        """Whether the credential may not do this to webhooks."""
        return self.allowed == "none" or (method != "GET" and self.allowed == "read")

    def listed(self, repo: str) -> Answer:
        """`GET /repos/{repo}/hooks`."""
        example = github_contract.example("hook-items")[0]
        found = [
            example | {"id": hook.id, "config": example["config"] | {"url": hook.url}}
            for hook in self.hooks
            if hook.repo == repo
        ]
        return 200, found, {}

    def deliveries(self, hook: Hook, base: str, query: str) -> Answer:
        """`GET …/hooks/{id}/deliveries`, a page of it."""
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        oldest = datetime.now(UTC) - KEPT
        kept = [each for each in hook.attempts if each.at > oldest]
        # By the time of the event, as tests give it; GitHub's own order is the same.
        kept.sort(key=lambda each: (each.at, each.id), reverse=True)
        first = int(asked.get("cursor", "0"))
        size = min(int(asked.get("per_page", "30")), self.page)
        shown = kept[first : first + size]
        links = {}
        if first + size < len(kept):
            more = f"{base}?per_page={size}&cursor={first + size}"
            links["Link"] = f'<{more}>; rel="next"'
        return 200, [_item(each) for each in shown], links

    def again(self, hook: Hook, attempt_id: int) -> Answer | None:
        """`POST …/deliveries/{id}/attempts`: yes at once, the delivery a moment later."""
        found = [each for each in hook.attempts if each.id == attempt_id]
        if not found:
            return None
        self.asked.append(found[0].guid)
        task = asyncio.create_task(
            self._try(hook, found[0].event, found[0].guid, found[0].body, _now())
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return 202, {}, {}

    def find(self, repo: str, hook_id: str) -> Hook | None:
        """The webhook of a repository by its id."""
        named = (hook for hook in self.hooks if hook.repo == repo)
        return next((hook for hook in named if str(hook.id) == hook_id), None)

    def ref(self, repo: str, name: str, told: Mapping[str, str]) -> Answer | None:
        """`GET /repos/{repo}/git/ref/heads%2F{branch}`; 304 for the ETag it has."""
        kind, _, branch = unquote(name).partition("/")
        origin = self.origins.get(repo)
        sha = origin.find(branch) if origin and kind == "heads" else None
        if sha is None:
            return None
        etag = f'W/"{sha}"'
        if told.get("If-None-Match") == etag:
            return 304, None, {"ETag": etag}
        shown = github_contract.example("git-ref") | {"ref": f"refs/heads/{branch}"}
        return 200, shown | {"object": shown["object"] | {"sha": sha}}, {"ETag": etag}


def _now() -> datetime:
    return datetime.now(UTC)


def _item(attempt: Attempt) -> dict[str, Any]:
    return {
        "id": attempt.id,
        "guid": attempt.guid,
        "delivered_at": attempt.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "redelivery": attempt.redelivery,
        "duration": 0.03,
        "status": "OK" if attempt.ok else "failed to connect",
        "status_code": attempt.code,
        "event": attempt.event,
        "action": None,
        "installation_id": None,
        "repository_id": GITHUB_ID,
        "throttled_at": None,
    }
