"""Which build is meant: by number, SHA, branch, URL, `last`, or by where we stand."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from ci.client import checkout
from ci.client.api import Api
from ci.client.builds import Build, is_sha
from ci.client.exits import Exit, Failure, Refused
from ci.client.text import printable

_PAGE = (
    r".*/(?:builds/(?P<number>[1-9][0-9]{0,15})|commits/(?P<sha>[0-9a-fA-F]{7,64}))"
    r"(?:[./].*)?"
)


class Chooser:
    """Finds builds; `hint` tells the user what was taken instead of the obvious."""

    def __init__(
        self, api: Api, *, repo: str | None, directory: str, hint: Callable[[str], None]
    ) -> None:
        self._api = api
        self._repo = repo
        self._directory = directory
        self._hint = hint

    def choose(self, name: str | None) -> Build:
        """The build that `name` means; raises Failure (not found, usage)."""
        if name is None:
            return self._here()
        name = name.removeprefix("#")
        back = 1 if name == "last" else _back(name)
        if back:
            return self._newest(self.repository(), None, back)
        if "://" in name:
            return self._pasted(name)
        if re.fullmatch(r"[1-9][0-9]{0,15}", name):
            return self._numbered(name)
        if is_sha(name) and (found := self._commit(name)):
            return found
        return self._newest(self.repository(), name)

    def repository(self) -> str:
        """The repository meant: `--repo`, that of the checkout, else the first."""
        here = self._checkout()
        if self._repo is None and here is not None:
            return here[0]
        return self._repo or self._first()

    def checkout_repository(self) -> str | None:
        """The repository that the working directory is a checkout of."""
        here = self._checkout() if self._repo is None else None
        return here[0] if here else None

    def _checkout(self) -> tuple[str, checkout.Checkout] | None:
        found = checkout.find(self._directory)
        if found is None:
            return None
        repository = checkout.match(found.origin, self._api.repositories())
        return (repository.name, found) if repository else None

    def _first(self) -> str:
        repositories = self._api.repositories()
        if not repositories:
            raise Failure(Exit.NOT_FOUND, "the server has no repository configured")
        return repositories[0].name

    def _here(self) -> Build:
        here = self._checkout() if self._repo is None else None
        if here is None:
            return self._newest(self._repo or self._first(), None)
        repo, found = here
        build = self._commit(found.head, repo)
        if build is not None:
            return build
        missing = f"HEAD ({found.head[:7]}) has no build"
        if found.branch and (build := self._first_of(repo, found.branch)):
            self._hint(f"{missing}; this is the newest of {build.branch}")
            return build
        build = self._newest(repo, None)
        self._hint(f"{missing}; this is the newest of {build.repo}")
        return build

    def _numbered(self, digits: str) -> Build:
        try:
            return self._api.build(int(digits))
        except Refused as refusal:
            if refusal.code is Exit.NOT_FOUND and is_sha(digits):
                found = self._commit(digits)
                if found is not None:
                    return found
            if refusal.code is Exit.NOT_FOUND:
                raise Failure(
                    Exit.NOT_FOUND,
                    f"there is no build {digits}; `build-client history` lists them",
                ) from None
            raise

    def _pasted(self, url: str) -> Build:
        parts = urlsplit(url)
        found = re.fullmatch(_PAGE, unquote(parts.path))
        if found is None:
            raise Failure(
                Exit.USAGE,
                f"{printable(url)} is no page of a build; those end in /builds/412",
            )
        build = (
            self._commit(found["sha"])
            if found["sha"]
            else self._numbered(found["number"])
        )
        if build is None:
            raise Failure(Exit.NOT_FOUND, f"no build is of a commit {found['sha']}")
        self._warn_of_strangers(parts.netloc, build)
        return build

    def _warn_of_strangers(self, netloc: str, build: Build) -> None:
        address = self._api.server.address
        known = {urlsplit(address.url).netloc, urlsplit(build.url).netloc}
        if netloc not in known:
            self._hint(
                f"that page is on {printable(netloc)}; this is #{build.number} "
                f"of {address.url}"
            )

    def _commit(self, sha: str, repo: str | None = None) -> Build | None:
        repo = repo or self._repo
        for build in self._api.of_commit(sha):
            if repo is None or build.repo.casefold() == repo.casefold():
                return build
        return None

    def _first_of(self, repo: str, branch: str | None) -> Build | None:
        found, _ = self._api.builds(repo=repo, branch=branch, limit=1)
        return found[0] if found else None

    def _newest(self, repo: str, branch: str | None, back: int = 1) -> Build:
        found, _ = self._api.builds(repo=repo, branch=branch, limit=back)
        if len(found) >= back:
            return found[back - 1]
        if found:
            sentence = f"{printable(repo)} has not had that many builds: {len(found)}"
        elif branch is not None:
            sentence = (
                f'no build of a branch "{printable(branch)}" of {printable(repo)}; '
                "a build is a number, a SHA, a branch, a URL or `last`"
            )
        else:
            sentence = f"nothing of {printable(repo)} has been built yet; push a commit"
        raise Failure(Exit.NOT_FOUND, sentence)


def _back(name: str) -> int:
    """1 for `-1`; 0 for what does not count backwards."""
    found = re.fullmatch(r"-([1-9][0-9]?)", name)
    return int(found[1]) if found else 0
