"""Where the branches of a repository stand now, asked of the remote as cheaply as it goes.

GitHub's API answers "unchanged" without a git process. Whatever it cannot or may not
answer is asked of the remote itself, which is the truth.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from ci.adapters.git import Mirror
from ci.adapters.github import GitHub, refs
from ci.errors import GitHubError, GitHubRefused
from ci.history.watched import GONE, Watched

# Seconds for which the API is not asked again after it said no: the branch has gone,
# or the credential may not read this repository.
SILENCE = 3600.0

Seen = Mapping[str, Watched | None]

log = logging.getLogger(__name__)


class Heads:
    """The heads of one repository, cloned from `url`; call it with what was seen last.

    `mirror` is called for the repository's mirror.
    """

    def __init__(
        self,
        github: GitHub,
        api_url: str,
        url: str,
        mirror: Callable[[], Mirror],
    ) -> None:
        self._github = github
        self._name = refs.name_on(api_url, url)
        self._mirror = mirror
        self._silent_until = 0.0

    def forgive(self) -> None:
        """Ask the API again at once: there is another credential."""
        self._silent_until = 0.0

    async def __call__(self, seen: Seen) -> dict[str, Watched]:
        """Branch -> its head, GONE for one that is not there.

        Raises HostFault (NetworkDown, …) when the remote does not tell.
        """
        if self._name is not None and self._can_ask(seen):
            try:
                return {
                    branch: await self._ask(self._name, branch, watched)
                    for branch, watched in seen.items()
                    if watched is not None
                }
            except GitHubError as error:
                if isinstance(error, GitHubRefused):
                    self._silent_until = time.monotonic() + SILENCE
                log.info("the remote of %s is asked instead: %s", self._name, error)
        return await self._list(seen)

    def _can_ask(self, seen: Seen) -> bool:
        """The API answers 404 for a branch that is not there, as for one it hides."""
        there = all(each is not None and each.sha != GONE for each in seen.values())
        rested = time.monotonic() >= self._silent_until
        return there and rested and not self._github.trouble()

    async def _ask(self, name: str, branch: str, watched: Watched) -> Watched:
        head = await refs.head(self._github, name, branch, watched.etag)
        return watched if head is None else Watched(head.sha, head.etag)

    async def _list(self, seen: Seen) -> dict[str, Watched]:
        found = await self._mirror().remote_refs(tuple(seen))
        return {
            branch: _unless_new(found.get(branch, GONE), watched)
            for branch, watched in seen.items()
        }


def _unless_new(sha: str, watched: Watched | None) -> Watched:
    """The ETag stays as long as the head that it came with."""
    return watched if watched and watched.sha == sha else Watched(sha, "")
