"""Webhooks and branches of the stand-in for GitHub: what it delivers, and keeps of that.

Deliveries are really POSTed; what did not arrive is remembered and can be asked for again
for three days, as https://docs.github.com/en/webhooks/testing-and-troubleshooting-webhooks
has it: the newest first, a hundred to a page, further pages by cursor.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import aiohttp

from tests.fakes import github_contract
from tests.fakes.github_refusal import Refusal
from tests.fakes.push import GITHUB_ID, SECRET, encode, headers, make_ping, new_guid
from tests.fakes.repository import Origin

KEPT = timedelta(days=3)
TIMEOUT = 10.0
MEDIA = {"json": "application/json", "form": "application/x-www-form-urlencoded"}

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
    content_type: str = "json"
    events: tuple[str, ...] = ("push",)
    active: bool = True
    insecure_ssl: str = "0"
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))


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
        body, at = _body(hook, payload), datetime.now(UTC) - age
        return await self._try(hook, event, guid or new_guid(), body, at)

    async def _try(
        self, hook: Hook, event: str, guid: str, body: bytes, at: datetime
    ) -> Attempt:
        told = headers(
            body,
            hook.secret,
            event=event,
            guid=guid,
            hook_id=str(hook.id),
            content_type=MEDIA[hook.content_type],
        )
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
        found = [_shown(hook) for hook in self.hooks if hook.repo == repo]
        return 200, found, {}

    def create(self, repo: str, asked: Mapping[str, Any]) -> Answer:
        """`POST /repos/{repo}/hooks`: made, and pinged a moment later.

        One URL with the same events twice is refused, as by GitHub.
        """
        config = asked["config"]
        events = tuple(asked.get("events", ("push",)))
        for hook in self.hooks:
            if (hook.repo, hook.url, hook.events) == (repo, config["url"], events):
                raise Refusal(422, "Hook already exists on this repository")
        hook = Hook(repo, config["url"], next(self._ids), b"")
        self.hooks.append(hook)
        self._change(hook, asked)
        self._later(self.deliver(hook, _ping(hook), event="ping"))
        return 201, _shown(hook), {}

    def change(self, hook: Hook, asked: Mapping[str, Any]) -> Answer:
        """`PATCH …/hooks/{id}`: what is left out stays, but for `config` as a whole."""
        self._change(hook, asked)
        return 200, _shown(hook), {}

    def _change(self, hook: Hook, asked: Mapping[str, Any]) -> None:
        if "config" in asked:
            config = asked["config"]
            hook.url = config["url"]
            hook.secret = str(config.get("secret", "")).encode()
            hook.content_type = config.get("content_type", "form")
            hook.insecure_ssl = str(config.get("insecure_ssl", "0"))
        events = set(asked.get("events", hook.events)) | set(
            asked.get("add_events", ())
        )
        hook.events = tuple(sorted(events))
        hook.active = asked.get("active", hook.active)
        hook.updated = datetime.now(UTC)

    def ping(self, hook: Hook) -> Answer:
        """`POST …/hooks/{id}/pings`: yes at once, the ping a moment later."""
        self._later(self.deliver(hook, _ping(hook), event="ping"))
        return 204, None, {}

    def _later(self, delivery: Coroutine[Any, Any, Attempt]) -> None:
        task = asyncio.create_task(delivery)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        first = found[0]
        self._later(self._try(hook, first.event, first.guid, first.body, _now()))
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


def _body(hook: Hook, payload: object) -> bytes:
    """What is signed and sent: JSON, or a form that holds it."""
    body = encode(payload)
    return (
        body if hook.content_type == "json" else urlencode({"payload": body}).encode()
    )


def _ping(hook: Hook) -> dict[str, Any]:
    return make_ping(repo=hook.repo, content_type=hook.content_type, events=hook.events)


def _shown(hook: Hook) -> dict[str, Any]:
    """A webhook as GitHub shows it: that there is a secret, never which."""
    example = github_contract.example("hook-items")[0]
    config = {
        "url": hook.url,
        "content_type": hook.content_type,
        "insecure_ssl": hook.insecure_ssl,
    }
    if hook.secret:
        config["secret"] = "********"
    last = hook.attempts[-1] if hook.attempts else None
    response: dict[str, Any] = {"code": None, "status": "unused", "message": None}
    if last is not None:
        response = {"code": last.code, "status": "active", "message": "OK"}
    shown: dict[str, Any] = example | {
        "id": hook.id,
        "config": config,
        "events": list(hook.events),
        "active": hook.active,
        "updated_at": hook.updated.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "last_response": response,
    }
    return shown


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
