"""Waiting for a build to end, telling what has ended meanwhile, line by line."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence

from ci.client.api import Api
from ci.client.builds import Build, Target
from ci.client.cues import Cues
from ci.client.exits import Failure
from ci.client.look import life_sign
from ci.client.patience import Heartbeat, Patience

FIRST_LOOK = 0.2
LONGEST_LOOK = 1.0

Tell = Callable[[Build, Build | None], None]
Pause = Callable[[float, Sequence[int]], None]


def pause(seconds: float, descriptors: Sequence[int]) -> None:
    """Wait so long, or until one of them can be read."""
    select.select(descriptors, [], [], seconds)


def watch(
    api: Api,
    build: Build,
    tell: Tell,
    *,
    seen: Callable[[Build], None] = lambda build: None,
    patience: Patience,
    heartbeat: Heartbeat,
    until: Callable[[Build], bool] = lambda build: build.final,
    pause_for: Pause = pause,
) -> Build:
    """Look at the build until `until` holds; `tell` gets each change and what was before.

    It is looked at when the server has news; where that cannot be had, again and again,
    soon after something happened more often: more may happen. `seen` gets the build as it
    is known after each pause, and `pause_for` is how that is spent.
    """
    before: Build | None = None
    seconds = FIRST_LOOK
    with Cues(api, build.number) as cues:
        while True:
            if before is None or news(build) != news(before):
                tell(build, before)
                heartbeat.news()
                seconds, before = FIRST_LOOK, build
            if until(build):
                return build
            heartbeat.beat(life_sign(build, api.server.now()))
            seen(build)
            pause_for(seconds, cues.descriptors)
            seconds = min(seconds * 1.5, LONGEST_LOOK)
            if not cues.given() and not patience.tried:
                continue
            try:
                build = api.build(build.number)
                patience.found()
            except Failure as problem:
                patience.lost(problem)


def news(build: Build) -> tuple[object, ...]:
    """What must differ for a change to be worth telling."""
    return (
        build.state,
        build.attempt,
        [each.name for each in build.ended],
    )


def just_ended(build: Build, before: Build | None) -> list[Target]:
    """What has ended since; a new attempt begins anew."""
    known: set[str] = set()
    if before is not None and before.attempt == build.attempt:
        known = {each.name for each in before.ended}
    return [each for each in build.ended if each.name not in known]
