"""What the builds before one tell: since when it is broken, how long one takes.

The order is that of the build numbers, which is nearly always that of the commits.
"""

from __future__ import annotations

from ci.client.api import Api
from ci.client.builds import Build
from ci.client.look import SHORT_SHA
from ci.client.text import human_seconds, timestamp

BEFORE = 30
TYPICAL = 9


class Past:
    """`since` is the first failure after `good`, the last success; `left` in seconds.

    All are None where they say nothing.
    """

    def __init__(
        self,
        *,
        since: Build | None = None,
        good: Build | None = None,
        left: float | None = None,
    ) -> None:
        self.since = since
        self.good = good
        self.left = left

    def lines(self, build: Build) -> list[str]:
        """`broken since #410 (77aa012); last good #409`, `≈ 1m 30s left`."""
        if self.left is not None:
            left = human_seconds(self.left)
            return [f"≈ {left} left" if build.state == "running" else f"takes ≈ {left}"]
        if self.good is None:
            return []
        good = f"last good #{self.good.number}"
        if self.since is None or self.since.number == build.number:
            return [f"broken by this commit; {good}"]
        since = f"#{self.since.number} ({self.since.sha[:SHORT_SHA]})"
        return [f"broken since {since}; {good}"]


def look_back(api: Api, build: Build) -> Past | None:
    """What is worth saying of a failed, running or waiting build; None for others."""
    if build.own("branch") is None:
        return None
    if build.state == "failed":
        return _broken(api, build)
    if not build.final:
        return _remaining(api, build)
    return None


def typical(api: Api, build: Build) -> float | None:
    """The median of what the last good builds of its branch took, in seconds."""
    branch = build.own("branch")
    found, _ = api.builds(
        repo=build.own("repo"), branch=branch, state="succeeded", limit=TYPICAL
    )
    times = sorted(each.seconds for each in found if each.seconds is not None)
    return times[len(times) // 2] if times else None


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
            return Past(since=since, good=each)
        if each.state == "failed":
            since = each
    return Past()


def _remaining(api: Api, build: Build) -> Past:
    whole = typical(api, build)
    if whole is None or build.state == "queued":
        return Past(left=whole)
    started = timestamp(build.last_news)
    left = whole - (api.server.now() - started) if started is not None else 0.0
    return Past(left=left if left >= 1 else None)
