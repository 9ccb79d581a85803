"""The builds of a window as points beside each other: what /stats tells and draws."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from ci.history.trends import Past, rolling
from ci.models import BuildState, rfc3339
from ci.serve import shapes
from ci.serve.shapes import rounded

# Builds of which a moving value is taken.
SPAN = 20


class StatsPoint(shapes.Shape):
    """One build of the window."""

    number: int
    state: BuildState
    finished_at: shapes.Moment | None
    seconds: float | None
    p50: float | None = Field(description=f"of the last {SPAN} good ones until then")
    p90: float | None
    wait_seconds: float | None
    built: int | None = Field(description="derivations; null: not known")
    substituted: int | None = Field(description="paths from caches; null: not known")
    store_used: int | None = Field(description="bytes of its file system")
    steps: dict[str, float] = Field(
        description="seconds of each step of the last attempt, where it has ended"
    )


def points_of(window: Sequence[Past]) -> list[StatsPoint]:
    """The builds of a window as points, in its order."""
    good = good_seconds(window)
    p50, p90 = rolling(good, 0.5, SPAN), rolling(good, 0.9, SPAN)
    return [
        StatsPoint(
            number=build.number,
            state=build.state,
            finished_at=rfc3339(build.finished_at),
            seconds=rounded(build.seconds),
            p50=rounded(p50[place]),
            p90=rounded(p90[place]),
            wait_seconds=build.wait,
            built=build.last.built if build.last else None,
            substituted=build.last.substituted if build.last else None,
            store_used=build.last.store_used if build.last else None,
            steps=build.last.step_seconds if build.last else {},
        )
        for place, build in enumerate(window)
    ]


def good_seconds(window: Sequence[Past]) -> list[float | None]:
    """How long each build took, None for those that did not succeed."""
    return [
        build.seconds if build.state is BuildState.SUCCEEDED else None
        for build in window
    ]
