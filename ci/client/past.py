"""What the builds around one tell: since when it is broken, how long one takes.

The server knows. One that is too old to tell is asked for the builds before, and their
order is then that of the numbers, which is nearly always that of the commits.
"""

from __future__ import annotations

from contextlib import suppress

from ci.client import text
from ci.client.api import Api
from ci.client.builds import Build
from ci.client.exits import Failure
from ci.client.look import SHORT_SHA

BEFORE = 30
TYPICAL = 9


class Past:
    """`since` is the first failure after `good`, the last success; `left` in seconds.

    All are None where they say nothing; both builds are numbers, `sha` is the commit of
    `since` if it is known. `waits` is why it does not run yet, or empty.
    """

    def __init__(
        self,
        *,
        since: int | None = None,
        sha: str = "",
        good: int | None = None,
        left: float | None = None,
        waits: str = "",
    ) -> None:
        self.since = since
        self.sha = sha
        self.good = good
        self.left = left
        self.waits = waits

    def lines(self, build: Build) -> list[str]:
        """`broken since #410 (77aa012); last good #409`, `≈ 1m 30s left`."""
        if not build.final:
            return [*_waiting(self.waits), *_expected(build, self.left)]
        first = self.since is None or self.since == build.number
        if self.good is None and first:
            return []
        good = f"last good #{self.good}" if self.good else "none was good before"
        if first:
            return [f"broken by this commit; {good}"]
        sha = f" ({self.sha[:SHORT_SHA]})" if self.sha else ""
        return [f"broken since #{self.since}{sha}; {good}"]


def _expected(build: Build, left: float | None) -> list[str]:
    if left is None:
        return []
    words = text.human_seconds(left)
    return [f"≈ {words} left" if build.state == "running" else f"takes ≈ {words}"]


def _waiting(reason: str) -> list[str]:
    return [f"waits: {reason}"] if reason else []


def look_back(api: Api, build: Build) -> Past | None:
    """What is worth saying of a failed, running or waiting build; None for others."""
    if build.state != "failed" and build.final:
        return None
    if build.detailed:
        return _told(api, build)
    if build.own("branch") is None:
        return None
    if build.state == "failed":
        return _broken(api, build)
    return Past(left=remaining(build, typical(api, build), api.server.now()))


def remaining(build: Build, usual: float | None, now: float) -> float | None:
    """Seconds until the end of what usually takes so long; None when that is over."""
    if usual is None or build.state == "queued":
        return usual
    started = text.timestamp(build.last_news)
    left = usual - (now - started) if started is not None else 0.0
    return left if left >= 1 else None


def typical(api: Api, build: Build) -> float | None:
    """The median of what the last good builds of its branch took, in seconds."""
    branch = build.own("branch")
    found, _ = api.builds(
        repo=build.own("repo"), branch=branch, state="succeeded", limit=TYPICAL
    )
    times = sorted(each.seconds for each in found if each.seconds is not None)
    return times[len(times) // 2] if times else None


def expected(api: Api, build: Build) -> float | None:
    """How many seconds such a build takes, as the server says or as we find out."""
    return build.expected if build.detailed else typical(api, build)


def _told(api: Api, build: Build) -> Past:
    """What the server says itself; of the first failure it says the number only."""
    if not build.final:
        left = remaining(build, build.expected, api.server.now())
        return Past(left=left, waits=build.waits if build.state == "queued" else "")
    since, sha = build.broken_since, ""
    if since is not None and since != build.number:
        with suppress(Failure):
            sha = api.build(since).sha
    return Past(since=since, sha=sha, good=build.last_good)


def _broken(api: Api, build: Build) -> Past:
    since = build
    found, _ = api.builds(
        repo=build.own("repo"),
        branch=build.own("branch"),
        before=build.number,
        limit=BEFORE,
    )
    for each in found:
        if each.state == "succeeded":
            return Past(since=since.number, sha=since.sha, good=each.number)
        if each.state == "failed":
            since = each
    return Past()
