"""The demo's repository: three commits on `dev`, of which the second breaks a check."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ci.adapters.process import run

REPO = "demo/greeting"
GITHUB_ID = 1
COMMITS = (
    ("greet the world", "hello, world\n"),
    ("be more personal", "hello, you\n"),
    ("greet the world again", "good morning, world\n"),
)
NOBODY = "0" * 40
GIT = {
    "GIT_AUTHOR_NAME": "Demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_COMMITTER_NAME": "Demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}


@dataclass(frozen=True)
class Push:
    """One push of one commit, as GitHub would tell it."""

    before: str
    after: str
    title: str

    def body(self) -> bytes:
        """The webhook's payload: the keys that GitHub's schema requires."""
        commit = {
            "id": self.after,
            "message": self.title,
            "author": {"name": "Demo", "email": "demo@localhost"},
            "distinct": True,
        }
        payload = {
            "ref": "refs/heads/dev",
            "before": self.before,
            "after": self.after,
            "created": self.before == NOBODY,
            "deleted": False,
            "forced": False,
            "base_ref": None,
            "compare": "",
            "commits": [commit],
            "head_commit": commit,
            "repository": {"id": GITHUB_ID, "full_name": REPO},
            "pusher": {"name": "demo"},
        }
        return json.dumps(payload).encode()


def headers(body: bytes, secret: bytes, guid: str) -> dict[str, str]:
    """What GitHub sends along with a signed push."""
    signature = hmac.new(secret, body, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/demo",
        "X-GitHub-Delivery": guid,
        "X-GitHub-Event": "push",
        "X-GitHub-Hook-ID": "1",
        "X-Hub-Signature-256": f"sha256={signature}",
    }


async def make(folder: Path, environ_path: str) -> list[Push]:
    """Make the repository in `folder`; return one push for each commit.

    They are on a branch that nobody watches until `arrive` pushes them to `dev`.
    """
    await asyncio.to_thread(_begin, folder)
    await _git(folder, environ_path, "init", "--quiet", "--initial-branch=draft")
    before, pushes = NOBODY, []
    for title, greeting in COMMITS:
        await asyncio.to_thread((folder / "greeting.txt").write_text, greeting)
        await _git(folder, environ_path, "add", "--all")
        await _git(folder, environ_path, "commit", "--quiet", "--message", title)
        after = await _git(folder, environ_path, "rev-parse", "HEAD")
        pushes.append(Push(before, after, title))
        before = after
    return pushes


async def arrive(folder: Path, environ_path: str, push: Push) -> None:
    """Move `dev` to the pushed commit: the server may look before it is told."""
    await _git(folder, environ_path, "branch", "--force", "dev", push.after)


async def _git(folder: Path, environ_path: str, *arguments: str) -> str:
    env = {**GIT, "PATH": environ_path, "HOME": str(folder)}
    done = await run(["git", *arguments], env=env, cwd=folder, timeout=60)
    if done.code != 0:
        raise RuntimeError(done.stderr.decode(errors="replace"))
    return done.stdout.decode().strip()


def _begin(folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("flake.nix"), folder)
