"""Target by target, build by build: what fails since when, and what only sometimes does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from urllib.parse import quote

from markupsafe import Markup
from pydantic import Field

from ci.history.branch_states import VERDICTS
from ci.models import Build, BuildState, Target
from ci.serve import shapes, svg
from ci.serve.text import SYMBOLS, WIDTH, cut
from ci.text import printable

MOST = 30
"""So many targets are shown; the least remarkable ones are left out."""
NAME = 30
NONE = "·"


class GridTarget(shapes.Shape):
    """How one target ended in each build of the grid."""

    name: str
    states: list[BuildState | None] = Field(
        description="one for each of the builds; null: that build has no such target"
    )
    failing_since: int | None = Field(
        description="the first of the builds from which on it only failed; null: it "
        "does not fail now"
    )
    turns: int = Field(description="how often it broke or was mended")
    flaky: bool = Field(description="the same derivation both failed and succeeded")

    @property
    def words(self) -> str:
        """What is remarkable about it; "" for what has always gone the same."""
        said = []
        if self.failing_since is not None:
            said.append(f"failing since #{self.failing_since}")
        if self.flaky:
            said.append("flaky")
        if self.turns > 1:
            said.append(f"turned {self.turns} times")
        return ", ".join(said)


class Grid(shapes.Shape):
    """The newest builds of a branch, target by target."""

    builds: list[int] = Field(description="the newest commit first")
    targets: list[GridTarget] = Field(
        description=f"failing ones first, then what changed most; at most {MOST}"
    )
    left_out: int = Field(description="how many targets are not in it")


def begun(builds: Sequence[Build]) -> list[Build]:
    """Those that have come to something, in their order."""
    unborn = (BuildState.QUEUED, BuildState.SKIPPED)
    return [build for build in builds if build.attempt and build.state not in unborn]


def grid(builds: Sequence[Build]) -> Grid:
    """Of these builds that have begun, the newest first."""
    by_name: defaultdict[str, dict[int, Target]] = defaultdict(dict)
    for build in builds:
        for target in build.targets:
            by_name[target.name][build.number] = target
    numbers = [build.number for build in builds]
    whole = {build.number for build in builds if _whole(build)}
    targets = [_target(name, of, numbers, whole) for name, of in by_name.items()]
    targets.sort(key=_least)
    return Grid(
        builds=numbers, targets=targets[:MOST], left_out=max(0, len(targets) - MOST)
    )


def rows(shown: Grid) -> Markup:
    """The rows of the table. No template makes hundreds of cells."""
    return svg.safe("\n".join(_row(target, shown.builds) for target in shown.targets))


def lines(shown: Grid) -> Iterator[str]:
    """The same for a terminal of 80 columns."""
    if not shown.targets:
        return
    first, last = shown.builds[-1], shown.builds[0]
    yield f"targets, from #{last} (left) to #{first}"
    for target in shown.targets:
        marks = "".join(_symbol(state) for state in target.states)
        name = cut(printable(target.name), NAME)
        yield cut(f"  {name:<{NAME}} {marks} {target.words}".rstrip(), WIDTH)
    if shown.left_out:
        yield f"  {left_out(shown)}"


def left_out(shown: Grid) -> str:
    """What the grid does not show, "" when it shows all."""
    if not shown.left_out:
        return ""
    others = "other target is" if shown.left_out == 1 else "other targets are"
    return f"{shown.left_out} {others} left out: nothing is more remarkable about them"


def _whole(build: Build) -> bool:
    """Whether a target that it lacks has gone: it was evaluated, and all was asked for."""
    built = any(target.state is BuildState.SUCCEEDED for target in build.targets)
    return built and not build.requested_targets


def _target(
    name: str, of: dict[int, Target], numbers: Sequence[int], whole: Collection[int]
) -> GridTarget:
    """`of` has the target of each build that has one; `numbers` are newest first."""
    states = [of[number].state if number in of else None for number in numbers]
    verdicts = [
        (number, state)
        for number, state in zip(numbers, states, strict=True)
        if state in VERDICTS
    ]
    ends: defaultdict[str, set[BuildState]] = defaultdict(set)
    for target in of.values():
        if target.derivation and target.state in VERDICTS:
            ends[target.derivation].add(target.state)
    return GridTarget(
        name=name,
        states=states,
        failing_since=_failing_since(of, numbers, whole),
        turns=sum(one[1] is not other[1] for one, other in pairwise(verdicts)),
        flaky=any(len(each) > 1 for each in ends.values()),
    )


def _failing_since(
    of: dict[int, Target], numbers: Sequence[int], whole: Collection[int]
) -> int | None:
    since = None
    for number in numbers:
        state = of[number].state if number in of else None
        gone = state is None and number in whole and since is None
        if gone or state is BuildState.SUCCEEDED:
            break
        if state is BuildState.FAILED:
            since = number
    return since


def _least(target: GridTarget) -> tuple[bool, bool, int, int, str]:
    """The most remarkable first."""
    bad = sum(state not in (None, BuildState.SUCCEEDED) for state in target.states)
    failing = target.failing_since is not None
    return not failing, not target.flaky, -target.turns, -bad, target.name


def _row(target: GridTarget, numbers: Sequence[int]) -> str:
    asked = quote(target.name, safe="")
    cells = "".join(
        _cell(state, number, asked)
        for state, number in zip(target.states, numbers, strict=True)
    )
    words = f'<span class="says">{target.words}</span>' if target.words else ""
    return (
        f'<tr data-row><th scope="row"><code>{svg.text(target.name)}</code>{words}</th>'
        f"{cells}</tr>"
    )


def _cell(state: BuildState | None, number: int, asked: str) -> str:
    """A sign for the eye, a word for the ear, and the way to the target's log."""
    if state is None:
        return (
            f'<td><span aria-hidden="true">{NONE}</span>'
            '<span class="unseen">not in it</span></td>'
        )
    return (
        f'<td><a class="is-{state}" href="/builds/{number}/log?target={asked}">'
        f'<span aria-hidden="true">{SYMBOLS[state]}</span>'
        f'<span class="unseen">{state}, log</span></a></td>'
    )


def _symbol(state: BuildState | None) -> str:
    return NONE if state is None else SYMBOLS[state]
