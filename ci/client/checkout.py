"""The git checkout that we stand in, if any, and which repository of the server it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from ci.client.builds import Repository

GIT_SECONDS = 5

_SCP = r"(?:[^@/:]+@)?([^/:]+):(?!//)(.+)"
_URL = r"[a-z+]+://(?:[^@/]*@)?([^/:]*)(?::[0-9]+)?/(.+)"


class Checkout:
    """`origin` is a URL; `branch` is empty when HEAD is detached."""

    def __init__(self, origin: str, head: str, branch: str) -> None:
        self.origin = origin
        self.head = head
        self.branch = branch


def find(directory: str) -> Checkout | None:
    """The checkout around `directory`; None without one, without git or without origin."""
    if not _inside(directory):
        return None
    origin = _git(directory, "config", "--get", "remote.origin.url")
    head = _git(directory, "rev-parse", "HEAD", "--symbolic-full-name", "HEAD")
    if not origin or len(head) < 2:
        return None
    branch = head[1].removeprefix("refs/heads/") if head[1] != "HEAD" else ""
    return Checkout(origin[0], head[0], branch)


def match(origin: str, repositories: Sequence[Repository]) -> Repository | None:
    """The repository that is cloned from there, or is called as it is there."""
    wanted = normal(origin)
    for repository in repositories:
        if normal(repository.url) == wanted:
            return repository
    for repository in repositories:
        if wanted.endswith("/" + repository.name.casefold()):
            return repository
    return None


def normal(url: str) -> str:
    """`github.com/owner/name`, however the URL says it."""
    found = re.fullmatch(_URL, url) or re.fullmatch(_SCP, url)
    plain = f"{found[1]}/{found[2]}" if found else url
    return plain.rstrip("/").removesuffix(".git").casefold()


def _inside(directory: str) -> bool:
    """Whether git can find anything: starting it for nothing would cost more."""
    while True:
        if os.path.exists(os.path.join(directory, ".git")):
            return True
        parent = os.path.dirname(directory)
        if parent == directory:
            return False
        directory = parent


def _git(directory: str, *arguments: str) -> list[str]:
    """The lines that git says; none when it fails or is not there."""
    import subprocess

    try:
        done = subprocess.run(
            ["git", "-C", directory, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    return done.stdout.decode(errors="surrogateescape").splitlines()
