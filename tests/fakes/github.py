"""A GitHub for tests: a real HTTP server that holds us to GitHub's own description.

Every request is checked against the OpenAPI description and the limits that it leaves
out (tests/fakes/github_contract.py); what breaks a rule is kept in `violations`, and
leaving `async with FakeGitHub()` fails when there is any. `misbehave` scripts the bad
days (tests/fakes/misbehave.py).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from types import TracebackType
from typing import Any

import jwt
from aiohttp import web

from tests.fakes import github_contract
from tests.fakes.github_hooks import Answer, Hooks
from tests.fakes.github_refusal import Refusal, refused
from tests.fakes.misbehave import Reply
from tests.fakes.ports import keep_port, port_of
from tests.fakes.waiting import PATIENCE

TOKEN = "github_pat_11AAAAAAA0_test"
JWT_LIFE = 600
SERIAL = ("POST", "PATCH", "PUT", "DELETE")


@dataclass(frozen=True)
class Seen:
    """One request as it arrived; `at` is the monotonic clock in seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float


@dataclass(frozen=True)
class Status:
    """One commit status that GitHub took, in the order of `FakeGitHub.taken`."""

    repo: str
    sha: str
    state: str
    context: str
    description: str
    target_url: str | None
    at: float


class FakeGitHub:
    """Use as `async with FakeGitHub() as github:`; `github.url` is the API's address.

    `tokens`: personal tokens that are accepted. `commits`: the SHAs that exist, or None
    for all of them. `repositories`: full names that the credential may see, or None for
    all. `apps`: GitHub Apps, id -> public key in PEM. All may be changed at any time,
    as may `token_life` of installation tokens, the `token_expiry` that is told, and
    `clock_offset`, the seconds by which this GitHub's clock is ahead. `hooks` are its
    webhooks and branches.
    """

    def __init__(
        self,
        *,
        tokens: Iterable[str] = (TOKEN,),
        commits: Iterable[str] | None = None,
        repositories: Iterable[str] | None = None,
        apps: Mapping[str, str] | None = None,
    ) -> None:
        self.tokens = set(tokens)
        self.commits = None if commits is None else set(commits)
        self.repositories = None if repositories is None else set(repositories)
        self.apps = dict(apps or {})
        self.installation_tokens: dict[str, tuple[str, datetime]] = {}
        self.token_life = timedelta(hours=1)
        self.token_expiry = ""
        self.clock_offset = 0.0
        self.hooks = Hooks()
        self.violations: list[str] = []
        self.requests: list[Seen] = []
        self.taken: list[Status] = []
        self._plan: deque[Reply | None] = deque()
        self._silent_until = 0.0
        self._mutations = 0
        self._changed = asyncio.Condition()
        self._kept = keep_port()
        self.url = f"http://127.0.0.1:{port_of(self._kept)}"
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeGitHub:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
        if error is None:
            assert self.violations == [], self.violations

    async def start(self) -> None:
        """Listen on 127.0.0.1; after `stop`, on the same port: GitHub is back."""
        application = web.Application(client_max_size=1 << 20)
        application.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            shutdown_timeout=0.1,
            handler_cancellation=True,
        )
        await self._runner.setup()
        port = port_of(self._kept)
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True)
        await site.start()

    async def stop(self) -> None:
        """Stop listening: connections are refused from now on."""
        await self.hooks.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def close(self) -> None:
        """Stop for good: the port may be anybody's."""
        await self.stop()
        self._kept.close()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def misbehave(self, *replies: Reply | None) -> None:
        """Answer the next requests with these, one each; None is a good answer."""
        self._plan.extend(replies)

    def statuses(self, sha: str, context: str | None = None) -> list[Status]:
        """What was taken for a commit, oldest first; contexts ignore case."""
        return [
            status
            for status in self.taken
            if status.sha == sha
            and (context is None or status.context.lower() == context.lower())
        ]

    def latest(self, sha: str) -> dict[str, Status]:
        """What GitHub shows for a commit: the last status of each context."""
        return {status.context.lower(): status for status in self.statuses(sha)}

    async def wait_for(
        self,
        sha: str,
        state: str,
        timeout: float = PATIENCE,  # noqa: ASYNC109 - the deadline is part of the sentence
        context: str = "build-server",
    ) -> Status:
        """Return as soon as GitHub shows `state`; AssertionError after `timeout` s."""

        def shown() -> Status | None:
            return self.latest(sha).get(context.lower())

        def reached() -> bool:
            status = shown()
            return status is not None and status.state == state

        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(reached)
            except TimeoutError:
                raise AssertionError(
                    f"no {state} for {sha[:7]} within {timeout:g} s; shown: {shown()}"
                ) from None
        status = shown()
        assert status is not None
        return status

    async def wait_for_requests(
        self,
        count: int,
        timeout: float = PATIENCE,  # noqa: ASYNC109 - the deadline is part of the sentence
    ) -> None:
        """Return once `count` requests have arrived in all, whatever became of them."""
        async with self._changed:
            async with asyncio.timeout(timeout):
                await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Seen(
            request.method, request.raw_path, request.headers, body, time.monotonic()
        )
        self.requests.append(seen)
        checked = github_contract.as_request(
            seen.method, seen.path, seen.headers, seen.body
        )
        broken = github_contract.broken_rules(checked)
        self.violations.extend(broken)
        self._check_manners(seen)
        scripted = self._plan.popleft() if self._plan else None
        mutation = seen.method in SERIAL
        self._mutations += mutation
        try:
            await self._tell()
            if scripted is not None:
                return await self._misbehave(request, seen, scripted)
            if broken:
                return refused(Refusal(422, broken[0]))
            return self._behave(seen, checked)
        finally:
            self._mutations -= mutation
            await self._tell()

    async def _tell(self) -> None:
        """Have those who wait look again."""
        async with self._changed:
            self._changed.notify_all()

    def _check_manners(self, seen: Seen) -> None:
        early = self._silent_until - seen.at
        if early > 0:
            self.violations.append(f"{seen.path} was asked {early:.2f} s too early")
        if seen.method in SERIAL and self._mutations:
            self.violations.append(f"{seen.path} did not wait for the one before it")

    async def _misbehave(
        self, request: web.Request, seen: Seen, reply: Reply
    ) -> web.StreamResponse:
        if reply.accept:
            self._behave(seen, None)
        if reply.silence:
            self._silent_until = time.monotonic() + reply.silence
        if reply.delay:
            await self._tell()
            await asyncio.sleep(reply.delay)
        if reply.reset and request.transport is not None:
            request.transport.abort()
        return web.Response(
            status=reply.status, body=reply.body, headers=dict(reply.headers)
        )

    def _behave(
        self, seen: Seen, checked: github_contract.Request | None
    ) -> web.StreamResponse:
        try:
            status, document, more = self._answer(seen)
        except Refusal as refusal:
            return refused(refusal)
        headers = self._headers() | more
        if document is None:
            return web.Response(status=status, headers=headers)
        body = json.dumps(document).encode()
        if checked is not None:
            self.violations.extend(github_contract.wrong_reply(checked, status, body))
        return web.Response(status=status, body=body, headers=headers)

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Date": formatdate(time.time() + self.clock_offset, usegmt=True),
            "X-RateLimit-Limit": "5000",
            "X-RateLimit-Remaining": str(5000 - len(self.requests)),
            "X-RateLimit-Reset": str(int(time.time()) + 3600),
        }
        if self.token_expiry:
            headers["GitHub-Authentication-Token-Expiration"] = self.token_expiry
        return headers

    def _answer(self, seen: Seen) -> Answer:
        path, _, query = seen.path.partition("?")
        match [seen.method, *path.strip("/").split("/")]:
            case ["POST", "repos", owner, repo, "statuses", sha]:
                self._check_token(seen, f"{owner}/{repo}")
                return 201, self._take(seen, f"{owner}/{repo}", sha), {}
            case ["GET", "repos", owner, repo, "installation"]:
                app = self._check_jwt(seen)
                self._check_repository(f"{owner}/{repo}")
                shown = github_contract.example("installation") | {"app_id": app}
                return 200, shown, {}
            case ["POST", "app", "installations", _, "access_tokens"]:
                self._check_jwt(seen)
                return 201, self._mint(seen), {}
            case ["GET", "app"]:
                app = self._check_jwt(seen)
                return 200, github_contract.example("integration") | {"id": app}, {}
            case ["GET", "user"]:
                self._check_token(seen, None)
                user = github_contract.example(
                    "private-user-response-with-public-profile-information"
                )
                return 200, user | {"user_view_type": "public"}, {}
            case ["GET", "rate_limit"]:
                self._check_token(seen, None)
                return 200, github_contract.example("rate-limit-overview"), {}
            case ["GET", "repos", owner, repo, "git", "ref", ref]:
                self._check_token(seen, f"{owner}/{repo}")
                return _found(self.hooks.ref(f"{owner}/{repo}", ref, seen.headers))
            case [_, "repos", owner, repo, "hooks", *rest]:
                self._check_token(seen, f"{owner}/{repo}")
                return self._of_hooks(seen, f"{owner}/{repo}", rest, query)
        raise Refusal(404, "Not Found")

    def _of_hooks(self, seen: Seen, repo: str, rest: list[str], query: str) -> Answer:
        if self.hooks.denied(seen.method):
            raise Refusal(403, "Resource not accessible by personal access token")
        hook = self.hooks.find(repo, rest[0]) if rest else None
        match [seen.method, *rest[1:]]:
            case ["GET"] if not rest:
                return self.hooks.listed(repo)
            case ["POST"] if not rest:
                return self.hooks.create(repo, json.loads(seen.body))
            case ["PATCH"] if hook is not None:
                return self.hooks.change(hook, json.loads(seen.body))
            case ["POST", "pings"] if hook is not None:
                return self.hooks.ping(hook)
            case ["GET", "deliveries"] if hook is not None:
                base = self.url + seen.path.partition("?")[0]
                return self.hooks.deliveries(hook, base, query)
            case ["POST", "deliveries", delivery, "attempts"] if hook is not None:
                return _found(self.hooks.again(hook, int(delivery)))
        raise Refusal(404, "Not Found")

    def _check_token(self, seen: Seen, repo: str | None) -> None:
        token = seen.headers.get("Authorization", "").partition(" ")[2]
        if token in self.installation_tokens:
            allowed, expires = self.installation_tokens[token]
            if expires <= datetime.now(UTC):
                raise Refusal(401, "Bad credentials")
            if repo is None or repo.partition("/")[2] != allowed:
                raise Refusal(403, "Resource not accessible by integration")
        elif token not in self.tokens:
            raise Refusal(401, "Bad credentials")
        if repo is not None:
            self._check_repository(repo)

    def _check_repository(self, repo: str) -> None:
        if self.repositories is not None and repo not in self.repositories:
            raise Refusal(404, "Not Found")

    def _check_jwt(self, seen: Seen) -> int:
        """The id of the App that signed; GitHub wants RS256 and ten minutes at most."""
        token = seen.headers.get("Authorization", "").partition(" ")[2]
        try:
            issuer = jwt.decode(token, options={"verify_signature": False})["iss"]
            claims = jwt.decode(
                token,
                self.apps[issuer],
                algorithms=["RS256"],
                options={"require": ["iat", "exp", "iss"]},
            )
        except (jwt.InvalidTokenError, KeyError) as error:
            raise Refusal(401, "A JSON web token could not be decoded") from error
        if claims["exp"] > time.time() + JWT_LIFE:
            raise Refusal(
                401, "'Expiration time' claim ('exp') is too far in the future"
            )
        return int(issuer)

    def _mint(self, seen: Seen) -> dict[str, Any]:
        names = json.loads(seen.body or b"{}").get("repositories", [])
        if len(names) != 1:
            raise Refusal(422, "the tests ask for tokens of one repository only")
        token = f"ghs_{secrets.token_hex(18)}"
        expires = datetime.now(UTC) + self.token_life
        self.installation_tokens[token] = (names[0], expires)
        return {
            "token": token,
            "expires_at": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "permissions": {"statuses": "write", "contents": "read"},
            "repository_selection": "selected",
        }

    def _take(self, seen: Seen, repo: str, sha: str) -> dict[str, Any]:
        asked = json.loads(seen.body)
        context = asked.get("context", "default")
        if self.commits is not None and sha not in self.commits:
            raise Refusal(422, f"No commit found for SHA: {sha}")
        if len(self.statuses(sha, context)) >= github_contract.STATUSES_LIMIT:
            raise Refusal(
                422, "This SHA and context has reached the maximum number of statuses."
            )
        status = Status(
            repo,
            sha,
            asked["state"],
            context,
            asked.get("description") or "",
            asked.get("target_url"),
            seen.at,
        )
        self.taken.append(status)
        shown: dict[str, Any] = github_contract.example("status") | {
            "state": status.state,
            "context": status.context,
            "description": asked.get("description"),
            "target_url": status.target_url,
        }
        return shown


def _found(answer: Answer | None) -> Answer:
    if answer is None:
        raise Refusal(404, "Not Found")
    return answer
