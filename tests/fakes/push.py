"""Pushes as GitHub sends them: payloads of the documented shape, signed for real.

The shape is `webhook-push` of GitHub's published OpenAPI description (all of its
required keys, and the optional ones that every real delivery carries).
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

ZERO = "0" * 40
SECRET = b"0123456789abcdef0123456789abcdef"
REPO = "octo-org/hello"
GITHUB_ID = 1296269

_guids = itertools.count(1)


def sha(label: object) -> str:
    """A commit id that is the same for the same label in every run."""
    return hashlib.sha1(str(label).encode(), usedforsecurity=False).hexdigest()


def make_commit(
    commit_id: str,
    message: str = "Change something",
    *,
    author: str = "Mona Octocat",
    distinct: bool = True,
) -> dict[str, Any]:
    """One element of `commits[]`, also the shape of `head_commit`."""
    person = {"name": author, "email": "mona@example.org", "username": "mona"}
    return {
        "id": commit_id,
        "tree_id": sha(f"tree of {commit_id}"),
        "distinct": distinct,
        "message": message,
        "timestamp": "2026-11-20T05:30:00+00:00",
        "url": f"https://github.com/{REPO}/commit/{commit_id}",
        "author": person,
        "committer": person,
        "added": [],
        "removed": [],
        "modified": ["flake.nix"],
    }


def make_repository(
    repo: str = REPO, *, github_id: int = GITHUB_ID, default_branch: str = "dev"
) -> dict[str, Any]:
    """The `repository` key of a payload, reduced to what identifies it."""
    owner, _, name = repo.partition("/")
    return {
        "id": github_id,
        "node_id": "R_kgDOABPHhQ",
        "name": name,
        "full_name": repo,
        "private": False,
        "owner": {"name": owner, "login": owner, "id": 1},
        "html_url": f"https://github.com/{repo}",
        "clone_url": f"https://github.com/{repo}.git",
        "ssh_url": f"git@github.com:{repo}.git",
        "statuses_url": f"https://api.github.com/repos/{repo}/statuses/{{sha}}",
        "created_at": 1_700_000_000,
        "pushed_at": 1_760_000_000,
        "default_branch": default_branch,
    }


def make_push(
    commits: int | Sequence[Mapping[str, Any]] = 1,
    *,
    repo: str = REPO,
    github_id: int = GITHUB_ID,
    branch: str = "dev",
    ref: str | None = None,
    before: str | None = None,
    after: str | None = None,
    forced: bool = False,
    created: bool = False,
    deleted: bool = False,
    label: str = "push",
    **extra: Any,
) -> dict[str, Any]:
    """A push payload; `commits` is a count, or the commits themselves, oldest first.

    The default is an ordinary push of one new commit to `dev`. `after` is the newest
    commit's id unless given; pushes of one history chain by passing the last push's
    `after` as `before`. `extra` keys replace or add top-level keys.
    """
    if isinstance(commits, int):
        commits = [
            make_commit(sha(f"{label} {n}"), f"{label} {n}") for n in range(commits)
        ]
    made = [dict(commit) for commit in commits]
    if after is None:
        after = ZERO if deleted else made[-1]["id"] if made else sha(f"{label} head")
    if before is None:
        before = ZERO if created else sha(f"before {label}")
    head = (
        None if deleted else made[-1] if made else make_commit(after, f"{label} head")
    )
    return {
        "ref": ref if ref is not None else f"refs/heads/{branch}",
        "before": before,
        "after": after,
        "repository": make_repository(repo, github_id=github_id),
        "pusher": {"name": "mona", "email": "mona@example.org"},
        "sender": {"login": "mona", "id": 2},
        "created": created,
        "deleted": deleted,
        "forced": forced,
        "base_ref": None,
        "compare": f"https://github.com/{repo}/compare/{before[:12]}...{after[:12]}",
        "commits": made,
        "head_commit": head,
    } | extra


def make_ping(
    *,
    repo: str = REPO,
    github_id: int = GITHUB_ID,
    content_type: str = "json",
    events: Sequence[str] = ("push",),
) -> dict[str, Any]:
    """The payload GitHub sends once, when a webhook is made."""
    return {
        "zen": "Keep it logically awesome.",
        "hook_id": 30,
        "hook": {
            "type": "Repository",
            "id": 30,
            "name": "web",
            "active": True,
            "events": list(events),
            "config": {
                "content_type": content_type,
                "insecure_ssl": "0",
                "secret": "********",
                "url": "https://build-server.example.ts.net/webhook",
            },
        },
        "repository": make_repository(repo, github_id=github_id),
        "sender": {"login": "mona", "id": 2},
    }


def encode(payload: object) -> bytes:
    """The bytes of a delivery: compact UTF-8 JSON, as GitHub sends them."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def sign(body: bytes, secret: bytes | str = SECRET) -> str:
    """The value of `X-Hub-Signature-256` for this body."""
    key = secret.encode() if isinstance(secret, str) else secret
    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()


def new_guid() -> str:
    """A delivery GUID that no earlier call in this process gave."""
    return f"7c6b2ab0-c4f5-11f0-8000-{next(_guids):012x}"


def headers(
    body: bytes,
    secret: bytes | str = SECRET,
    *,
    event: str = "push",
    guid: str | None = None,
    hook_id: str = "30",
    content_type: str = "application/json",
) -> dict[str, str]:
    """The headers of a delivery of `body`, with a new GUID unless one is given."""
    return {
        "Accept": "*/*",
        "Content-Type": content_type,
        "User-Agent": "GitHub-Hookshot/044aadd",
        "X-GitHub-Delivery": guid or new_guid(),
        "X-GitHub-Event": event,
        "X-GitHub-Hook-ID": hook_id,
        "X-GitHub-Hook-Installation-Target-ID": str(GITHUB_ID),
        "X-GitHub-Hook-Installation-Target-Type": "repository",
        "X-Hub-Signature-256": sign(body, secret),
    }
