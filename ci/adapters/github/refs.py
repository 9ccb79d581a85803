"""The heads of branches as GitHub's API tells them, without a git process.

https://docs.github.com/en/rest/git/refs#get-a-reference
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ci.adapters.github import GitHub
from ci.adapters.github.api import Api
from ci.errors import GitHubUnavailable

REF = "/repos/{owner}/{repo}/git/ref/{ref}"

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NAME = re.compile(r"/?([\w.-]+/[\w.-]+?)(?:\.git)?/?", re.ASCII)


@dataclass(frozen=True)
class Head:
    """The commit that a branch points at; `etag` asks for changes to it only."""

    sha: str
    etag: str


async def head(github: GitHub, repo: str, branch: str, etag: str = "") -> Head | None:
    """The head of a branch; None when it is still the one that `etag` came with.

    Raises GitHubRefused (404) when there is no such branch, or none that the credential
    may see; GitHubUnavailable, GitHubBusy, CredentialRejected.
    """

    async def ask(api: Api, place: Mapping[str, str], token: str) -> Head | None:
        reply = await api.look(REF, {**place, "ref": f"heads/{branch}"}, token, etag)
        if reply.unchanged:
            return None
        if reply.document["ref"] != f"refs/heads/{branch}":
            raise GitHubUnavailable(f"GitHub told of another ref than {branch}")
        sha = str(reply.document["object"]["sha"])
        if not _SHA.fullmatch(sha):
            raise GitHubUnavailable(f"GitHub's head of {branch} is no commit id")
        return Head(sha, reply.etag)

    return await github.ask(repo, ask)


def is_on(api_url: str, url: str) -> bool:
    """Whether the repository cloned from `url` is on the GitHub whose API is at `api_url`.

    `github.com` belongs to `api.github.com`, and likewise with `SUBDOMAIN.ghe.com`; a
    GitHub Enterprise Server has one host for both.
    """
    api_host = (urlsplit(api_url).hostname or "").removeprefix("api.")
    return _parts(url)[0].lower() == api_host.lower()


def name_on(api_url: str, url: str) -> str | None:
    """What the API at `api_url` calls the repository cloned from `url`; None: not its own."""
    found = _NAME.fullmatch(_parts(url)[1])
    return found[1] if found and is_on(api_url, url) else None


def _parts(url: str) -> tuple[str, str]:
    """Host and path of an address that git clones from."""
    if "://" in url:
        parts = urlsplit(url)
        return parts.hostname or "", parts.path
    login, _, path = url.partition(":")
    return login.rpartition("@")[2], path
