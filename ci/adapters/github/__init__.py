"""Everything said to GitHub: commit statuses, the credential, tokens for git."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from ci.adapters.github.api import Api, understood
from ci.adapters.github.clock import Stopwatch
from ci.errors import (
    CredentialRejected,
    GitHubBusy,
    GitHubRefused,
    GitHubUnavailable,
    NetworkDown,
)
from ci.models import StatusState

T = TypeVar("T")

# GitHub ends a request of its own accord after 10 s.
TIMEOUT = 20.0

JWT_SECONDS = 540
CLOCK_TOLERANCE = 30.0
TOKEN_MARGIN = 300.0
TOKEN_LIFE = 3600.0

STATUSES = "/repos/{owner}/{repo}/statuses/{sha}"
INSTALLATION = "/repos/{owner}/{repo}/installation"
INSTALLATION_TOKENS = "/app/installations/{id}/access_tokens"

NO_CREDENTIAL = (
    "there is no credential for GitHub: set token_file, or app_id and app_key_file, "
    "in [github]"
)

_FULL_NAME = re.compile(r"(?!\.{1,2}/)[\w.-]+/(?!\.{1,2}$)[\w.-]+", re.ASCII)
_FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True)
class Token:
    """A personal access token that may write commit statuses."""

    secret: str = field(repr=False)


@dataclass(frozen=True)
class App:
    """A GitHub App: its id and its RSA key in PEM."""

    app_id: str
    key: str = field(repr=False)


Credential = Token | App


@dataclass(frozen=True)
class _Lease:
    """An installation token for one repository; good for `life` seconds of `age`."""

    app: App
    token: str = field(repr=False)
    life: float
    age: Stopwatch


class GitHub:
    """What this server asks of GitHub; make one, `close` it at the end.

    `credential` is called for every request, so that a new one is used at once. After a
    rate limit nothing is sent before GitHub allows it, whoever asks.
    """

    def __init__(
        self,
        api_url: str,
        credential: Callable[[], Credential | None],
        *,
        requester: str = "build-server",
        timeout: float = TIMEOUT,
        stopwatch: Callable[[], Stopwatch] = Stopwatch,
    ) -> None:
        self._stopwatch = stopwatch
        self._api = Api(requester, api_url.rstrip("/"), timeout)
        self._credential = credential
        self._rejected: Credential | None = None
        self._rejection = ""
        self._leases: dict[str, _Lease] = {}
        self._minting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    @property
    def clock_skew(self) -> float | None:
        """Seconds by which GitHub's clock is ahead of ours; None until it has told."""
        return self._api.clock.skew

    def trouble(self) -> str:
        """Why the present credential is of no use; empty when it may be good."""
        credential = self._credential()
        if credential is None:
            return NO_CREDENTIAL
        return self._rejection if credential == self._rejected else ""

    def forgive(self) -> None:
        """Try a rejected credential again: its owner says that it is good now."""
        self._rejected = None

    async def post_status(
        self,
        repo: str,
        sha: str,
        *,
        state: StatusState,
        context: str,
        description: str,
        target_url: str,
    ) -> None:
        """Create one commit status in `repo` (`owner/name`); return when GitHub has it.

        Raises GitHubUnavailable, GitHubBusy, CredentialRejected, GitHubRefused.
        """
        if not _FULL_SHA.fullmatch(sha):
            raise GitHubRefused(f"{sha!r} is no full SHA", status=0, permanent=True)
        place = _place(repo) | {"sha": sha}
        wanted = {
            "state": state.value,
            "context": context,
            "description": description,
            "target_url": target_url,
        }
        shown = await self._authorised(
            repo, lambda token: self._api.create(STATUSES, place, wanted, token)
        )
        if (
            not isinstance(shown, dict)
            or shown.get("state") != state.value
            or str(shown.get("context")).lower() != context.lower()
        ):
            raise GitHubUnavailable(
                "GitHub answered 201 but did not repeat the status: is there a proxy?"
            )

    async def check_credential(self) -> str:
        """Ask GitHub who we are: `token of octocat`, `GitHub App my-builds`.

        Raises GitHubUnavailable, GitHubBusy, CredentialRejected, GitHubRefused.
        """
        credential = self._credential()
        if credential is None:
            raise CredentialRejected(NO_CREDENTIAL)
        try:
            if isinstance(credential, App):
                signed = await _sign(credential)
                app = await understood(self._api.getitem("/app", jwt=signed))
                name = f"GitHub App {app['slug']}"
            else:
                user = await understood(
                    self._api.getitem("/user", oauth_token=credential.secret)
                )
                name = f"token of {user['login']}{self._api.expiry}"
        except CredentialRejected as error:
            self._reject(credential, error)
            raise
        except (KeyError, TypeError) as error:
            raise GitHubUnavailable(
                "GitHub did not say whose the credential is"
            ) from error
        self.forgive()
        return name

    async def git_token(self, repo: str) -> str | None:
        """A token with which git may read `repo`; None when there is none to offer.

        A rejected token is not offered: git reads public repositories without one, but
        fails with a bad one. Raises NetworkDown when GitHub cannot mint one now.
        """
        credential = self._credential()
        if credential is None or credential == self._rejected:
            return None
        try:
            return await self._token(credential, repo)
        except (GitHubUnavailable, GitHubBusy) as error:
            raise NetworkDown(f"no token for git: {error}") from error
        except (CredentialRejected, GitHubRefused):
            return None

    async def ask(
        self, repo: str, question: Callable[[Api, Mapping[str, str], str], Awaitable[T]]
    ) -> T:
        """Answer a `question(api, place, token)` about `repo` (`owner/name`).

        `place` are the URL variables `owner` and `repo`. Raises GitHubUnavailable,
        GitHubBusy, CredentialRejected, GitHubRefused.
        """
        place = _place(repo)
        return await self._authorised(
            repo, lambda token: question(self._api, place, token)
        )

    async def _authorised(self, repo: str, ask: Callable[[str], Awaitable[T]]) -> T:
        """Run `ask` with a token; once more when an installation token died early."""
        credential = self._credential()
        if credential is None:
            raise CredentialRejected(NO_CREDENTIAL)
        try:
            return await understood(ask(await self._token(credential, repo)))
        except CredentialRejected as error:
            if isinstance(credential, Token) or self._leases.pop(repo, None) is None:
                self._reject(credential, error)
                raise
        try:
            return await understood(ask(await self._token(credential, repo)))
        except CredentialRejected as error:
            self._reject(credential, error)
            raise

    def _reject(self, credential: Credential, error: CredentialRejected) -> None:
        self._rejected = credential
        self._rejection = str(error)

    async def _token(self, credential: Credential, repo: str) -> str:
        if isinstance(credential, Token):
            return credential.secret
        async with self._minting:
            lease = self._leases.get(repo)
            if (
                lease is None
                or lease.app != credential
                or lease.age.seconds >= lease.life
            ):
                self._leases.pop(repo, None)
                lease = await understood(self._mint(credential, repo))
                self._leases[repo] = lease
            return lease.token

    async def _mint(self, app: App, repo: str) -> _Lease:
        place = _place(repo)
        signed = await _sign(app)
        try:
            found = await self._api.getitem(INSTALLATION, place, jwt=signed)
            minted = await self._api.post(
                INSTALLATION_TOKENS,
                {"id": str(found["id"])},
                data={"repositories": [place["repo"]]},
                jwt=signed,
            )
        except CredentialRejected as error:
            if abs(self._api.clock_skew) > CLOCK_TOLERANCE:
                raise GitHubUnavailable(
                    f"this host's clock is {abs(self._api.clock_skew):.0f} s off "
                    "GitHub's, which refuses the App's signature for that"
                ) from error
            raise
        expires = datetime.fromisoformat(minted["expires_at"]).timestamp()
        life = expires - time.time() - self._api.clock_skew
        return _Lease(
            app=app,
            token=str(minted["token"]),
            life=min(life, TOKEN_LIFE) - TOKEN_MARGIN,
            age=self._stopwatch(),
        )


async def _sign(app: App) -> str:
    """The App's own JWT; cryptography is loaded here, by the few who need it."""
    return await asyncio.to_thread(_sign_now, app)


def _sign_now(app: App) -> str:
    import jwt
    from gidgethub.apps import get_jwt

    try:
        return get_jwt(app_id=app.app_id, private_key=app.key, expiration=JWT_SECONDS)
    except (jwt.PyJWTError, TypeError, ValueError) as error:
        raise CredentialRejected(
            f"the key of GitHub App {app.app_id} cannot be used ({error}): "
            "app_key_file must hold the RSA key in PEM that GitHub made"
        ) from error


def _place(repo: str) -> dict[str, str]:
    """The URL variables of `owner/name`; raises GitHubRefused for anything else."""
    if not _FULL_NAME.fullmatch(repo):
        raise GitHubRefused(f"{repo!r} is not owner/name", status=0, permanent=True)
    owner, _, name = repo.partition("/")
    return {"owner": owner, "repo": name}
