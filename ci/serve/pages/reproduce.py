"""How to do on another machine what a build did, and where to see what has changed."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from ci.adapters.nix_eval import patterns
from ci.config import Repository
from ci.errors import CommitFault
from ci.models import Build, BuildState, Cause

MOST = 10
"""Commands for so many targets; the failed ones come first."""

_SCP = re.compile(r"(?P<host>[^/:]+@[^/:]+):(?P<path>.*)")
_ORDER = (BuildState.FAILED, BuildState.ERROR, BuildState.RUNNING, BuildState.QUEUED)
# Characters of an attribute path that need no escape behind the # of a flake's address.
_PLAIN = "\"'.@:+*,^ "


def commands(build: Build, repository: Repository | None) -> list[str]:
    """What to type, a command each; none where repository, harness or commit is ours."""
    if repository is None or repository.harness or build.cause == Cause.UPDATE:
        return []
    if repository.builder == "command":
        folder = repository.name.rpartition("/")[2]
        return [
            f"git clone {shlex.quote(repository.url)} {shlex.quote(folder)}",
            f"git -C {shlex.quote(folder)} checkout {build.sha}",
            f"cd {shlex.quote(folder)} && {shlex.join(repository.command)}",
        ]
    targets = sorted(
        (each for each in build.targets if each.state is not BuildState.SKIPPED),
        key=lambda each: _ORDER.index(each.state) if each.state in _ORDER else 9,
    )
    address = flake_url(build, repository)
    names = [attribute(target.name) for target in targets]
    return [
        f"nix build {shlex.quote(f'{address}#{quote(name, safe=_PLAIN)}')}"
        for name in _first(filter(None, names))
    ]


def flake_url(build: Build, repository: Repository) -> str:
    """The flake of that commit as Nix fetches it: `git+https://…?ref=dev&rev=…`."""
    url = repository.url
    if url.startswith("/"):
        url = f"file://{quote(url)}"
    elif (scp := _SCP.fullmatch(url)) and "://" not in url:
        url = f"ssh://{scp['host']}/{scp['path'].removeprefix('/')}"
    ref = f"ref={quote(build.branch, safe='/')}&" if build.branch else ""
    folder = repository.flake_dir
    inside = "" if folder in ("", ".") else f"&dir={quote(folder)}"
    return f"git+{url}?{ref}rev={build.sha}{inside}"


def attribute(name: str) -> str:
    """The whole attribute path of a target, the system filled in; "" for no such path."""
    try:
        request = patterns.parse(name, f"{os.uname().machine}-linux")
    except CommitFault:
        return ""
    path = (*(part.text for part in request.path), *request.suffix)
    return ".".join(map(patterns.quote, path))


def compare_url(
    repository: Repository | None, good: Build | None, build: Build
) -> str | None:
    """GitHub's page of what has changed since the last good build."""
    if good is None or not on_github(repository):
        return None
    return f"https://github.com/{build.repo}/compare/{good.sha}...{build.sha}"


def commit_url(repository: Repository | None, build: Build) -> str | None:
    """GitHub's page of the commit; it has none of ours."""
    if not on_github(repository) or build.cause == Cause.UPDATE:
        return None
    return f"https://github.com/{build.repo}/commit/{build.sha}"


def on_github(repository: Repository | None) -> bool:
    """Whether the repository is fetched from github.com."""
    if repository is None:
        return False
    scp = _SCP.fullmatch(repository.url)
    if scp and "://" not in repository.url:
        return scp["host"].rpartition("@")[2].lower() == "github.com"
    return urlsplit(repository.url).hostname == "github.com"


def _first(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))[:MOST]
