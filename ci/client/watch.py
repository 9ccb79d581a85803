"""Waiting for a build to end, telling what has ended meanwhile, line by line."""

from __future__ import annotations

import time
from collections.abc import Callable

from ci.client.api import Api
from ci.client.builds import Build, Target
from ci.client.exits import Failure
from ci.client.look import life_sign
from ci.client.patience import Heartbeat, Patience

FIRST_LOOK = 0.2
LONGEST_LOOK = 1.0

Tell = Callable[[Build, Build | None], None]


def watch(
    api: Api,
    build: Build,
    tell: Tell,
    *,
    seen: Callable[[Build], None] = lambda build: None,
    patience: Patience,
    heartbeat: Heartbeat,
    until: Callable[[Build], bool] = lambda build: build.final,
    pause_for: Callable[[float], None] = time.sleep,
) -> Build:
    """Look at the build until `until` holds; `tell` gets each change and what was before.

    Soon after something happened it is looked at more often: more may happen. `seen` gets
    every answer, and `pause_for` is how the time between two is spent.
    """
    before: Build | None = None
    pause = FIRST_LOOK
    while True:
        if before is None or news(build) != news(before):
            tell(build, before)
            heartbeat.news()
            pause, before = FIRST_LOOK, build
        if until(build):
            return build
        heartbeat.beat(life_sign(build, api.server.now()))
        seen(build)
        pause_for(pause)
        pause = min(pause * 1.5, LONGEST_LOOK)
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
        [each.name for each in build.targets if each.final],
    )


def just_ended(build: Build, before: Build | None) -> list[Target]:
    """What has ended since; a new attempt begins anew."""
    known: set[str] = set()
    if before is not None and before.attempt == build.attempt:
        known = {each.name for each in before.targets if each.final}
    return [each for each in build.targets if each.final and each.name not in known]
