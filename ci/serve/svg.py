"""Small pictures as inline SVG: no script, no style attribute, no other host.

Colours come from the stylesheet by class; whatever a colour says, a shape, a sign or a word
says as well. Every text from outside is escaped, and what cannot be seen is made visible.
A picture has the width of its drawing at most and shrinks with the page; where that would
make its words too small, `wide` lets it be scrolled instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ci.models import BuildState, human_seconds
from ci.serve.html import visible
from ci.serve.text import SYMBOLS

# Of the trend of builds: one bar and the gap behind it, and the room for the signs above.
STEP, BAR, SIGN = 12.0, 9.0, 12.0
LEAST = 3.0
# What has not ended well is not filled, so that it differs without its colour.
HOLLOW = {
    BuildState.ERROR: "",
    BuildState.CANCELLED: "2 2",
    BuildState.SKIPPED: "2 2",
    BuildState.RUNNING: "4 2",
    BuildState.QUEUED: "1 2",
}
# Around the field of a plot with axes: for the numbers at the left, the ends below.
LEFT, BOTTOM, TOP, RIGHT = 56.0, 18.0, 8.0, 12.0
NICE = (1, 2, 5, 10)
NICE_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
DAY = 86400
DASHES = ("", "6 3", "2 3")


@dataclass(frozen=True)
class Bar:
    """One build in a trend; `seconds` is None where it has no duration."""

    seconds: float | None
    state: str
    href: str
    title: str


@dataclass(frozen=True)
class Part:
    """One part of a whole, as of the time of a build."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Line:
    """One line of a plot: a value for each place of the x axis, None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Dot:
    """One thing marked in a plot, at place `at` of the x axis."""

    at: int
    value: float
    state: str
    href: str
    title: str


def text(words: str) -> Markup:
    """Words from outside, for an SVG's text or attribute."""
    return escape(visible(words))


def bars(
    values: Sequence[Bar], name: str = "Durations, oldest first", height: float = 56
) -> Markup:
    """Builds beside each other, oldest first: the height is the duration.

    A link each where it has an `href`; the sign of the state stands above whatever did
    not succeed.
    """
    width = max(STEP * len(values), STEP)
    longest = max((bar.seconds or 0 for bar in values), default=0)
    room = height - SIGN - 1
    drawn = [_bar(i, bar, longest, room, height) for i, bar in enumerate(values)]
    return frame("plot bars", width, height, name, "".join(drawn))


def safe(drawn: str) -> Markup:
    """What was drawn here, for a page: all words in it went through `text`."""
    return Markup(drawn)  # noqa: S704 - see above


def _bar(index: int, bar: Bar, longest: float, room: float, height: float) -> str:
    tall = max(LEAST, room * (bar.seconds or 0) / longest) if longest else LEAST
    x, y = index * STEP + 1, height - 1 - tall
    drawn = _shape(bar.state, x, y, BAR, tall)
    if bar.state != BuildState.SUCCEEDED:
        drawn += (
            f'<text x="{x + BAR / 2:g}" y="{y - 2:.1f}" font-size="10" '
            f'text-anchor="middle" fill="currentColor" aria-hidden="true">'
            f"{SYMBOLS.get(bar.state, '')}</text>"
        )
    # As wide and high as there is room: easy to hit.
    drawn += (
        f'<rect x="{index * STEP:g}" y="0" width="{STEP:g}" height="{height:g}" '
        'fill="none" pointer-events="all"/>'
    )
    return linked(
        f"<title>{text(bar.title)}</title>{drawn}", bar.state, bar.href, bar.title
    )


def _shape(state: str, x: float, y: float, width: float, height: float) -> str:
    dashes = HOLLOW.get(BuildState(state)) if state in SYMBOLS else ""
    if dashes is None:
        return (
            f'<rect x="{x:g}" y="{y:.1f}" width="{width:g}" height="{height:.1f}" '
            'fill="currentColor"/>'
        )
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<rect x="{x + 0.5:g}" y="{y + 0.5:.1f}" width="{width - 1:g}" '
        f'height="{max(height - 1, 1):.1f}" fill="none" stroke="currentColor"{dashed}/>'
    )


def linked(drawn: str, state: str, href: str, title: str) -> str:
    """`drawn` in the colour of its state, as a link with a name if it leads anywhere."""
    kind = f"is-{text(state)}"
    if not href:
        return f'<g class="{kind}">{drawn}</g>'
    return (
        f'<a class="{kind}" href="{text(href)}" aria-label="{text(title)}">{drawn}</a>'
    )


def frame(
    kind: str,
    width: float,
    height: float,
    name: str,
    inside: str,
    *,
    wide: bool = False,
) -> Markup:
    """The picture around what is drawn `inside`; `name` is what a screen reader says."""
    size = f'width="{width:g}" height="{height:g}"'
    scroll = " wide" if wide else ""
    return safe(
        f'<svg class="{kind}{scroll}" {size} viewBox="0 0 {width:g} {height:g}" '
        f'role="group" aria-label="{text(name)}" '
        f'xmlns="http://www.w3.org/2000/svg">{inside}</svg>'
    )


def stacked(
    parts: Sequence[Part], name: str = "Where the time went", height: float = 22
) -> Markup:
    """The parts of a whole beside each other, as wide as the page, with their legend.

    The legend has the order of the bar, and numbers what is wide enough for a number.
    """
    whole = sum(part.seconds for part in parts)
    drawn, legend, x = [], [], 0.0
    for i, part in enumerate(parts):
        share = part.seconds / whole if whole else 0.0
        told = f"{part.name}: {human_seconds(part.seconds)}, {share:.0%}"
        drawn.append(
            f'<g class="part-{i % 6}"><title>{text(told)}</title>'
            f'<rect x="{100 * x:.2f}%" y="0" width="{100 * share:.2f}%" '
            f'height="{height:g}" fill="currentColor"/></g>'
        )
        if share >= 0.03:
            drawn.append(
                f'<text class="on-part" x="{100 * (x + share / 2):.2f}%" '
                f'y="{height / 2 + 4:g}" font-size="12" text-anchor="middle" '
                f'aria-hidden="true">{i + 1}</text>'
            )
        legend.append(_legend_item(i, part.name, human_seconds(part.seconds), share))
        x += share
    return safe(
        f'<svg class="plot stacked" width="100%" height="{height:g}" role="img" '
        f'aria-label="{text(name)}" xmlns="http://www.w3.org/2000/svg">'
        f'{"".join(drawn)}</svg><ol class="legend">{"".join(legend)}</ol>'
    )


def _legend_item(index: int, name: str, took: str, share: float) -> str:
    return (
        f'<li><svg class="swatch part-{index % 6}" width="12" height="12" '
        'aria-hidden="true" xmlns="http://www.w3.org/2000/svg">'
        '<rect width="12" height="12" fill="currentColor"/></svg> '
        f"{index + 1} {text(name)} <b>{took}</b> {share:.0%}</li>"
    )


def line(
    lines: Sequence[Line],
    dots: Sequence[Dot] = (),
    *,
    name: str,
    ends: tuple[str, str] = ("", ""),
    unit: Callable[[float], str] = human_seconds,
    top: float | None = None,
    width: float = 640,
    height: float = 160,
) -> Markup:
    """Lines over places 0, 1, … of the x axis, each in its own dashes, with dots on them.

    `ends` are the words below the first and the last place; `unit` writes a value of the
    y axis, which begins at 0 and ends at `top` or above the highest value.
    """
    count = max(
        [len(one.values) for one in lines] + [dot.at + 1 for dot in dots], default=0
    )
    seen = [v for one in lines for v in one.values if v is not None]
    highest = top or max(seen + [dot.value for dot in dots], default=0.0)
    marks = ticks(highest, seconds=unit is human_seconds)
    field = _Field(width, height, max(count - 1, 1), max(marks[-1], highest))
    in_seconds = unit is human_seconds
    words = clocked(marks) if in_seconds else [unit(mark) for mark in marks]
    drawn = [_axis(field, *each) for each in zip(marks, words, strict=True)]
    drawn.append(_ends(field, ends))
    drawn += [_polyline(field, i, one) for i, one in enumerate(lines)]
    drawn += [_dot(field, dot) for dot in dots]
    return frame("plot line", width, height, name, "".join(drawn)) + _key(lines)


@dataclass(frozen=True)
class _Field:
    """Where places and values come to lie."""

    width: float
    height: float
    places: int
    highest: float

    def x(self, place: float) -> float:
        return LEFT + (self.width - LEFT - RIGHT) * place / self.places

    def y(self, value: float) -> float:
        tall = self.height - TOP - BOTTOM
        return TOP + tall * (1 - (value / self.highest if self.highest else 0))


def _axis(field: _Field, value: float, words: str) -> str:
    y = field.y(value)
    return (
        f'<line class="grid" x1="{LEFT:g}" x2="{field.width - RIGHT:g}" '
        f'y1="{y:.1f}" y2="{y:.1f}"/><text class="tick" x="{LEFT - 6:g}" '
        f'y="{y + 4:.1f}" font-size="12" text-anchor="end">{text(words)}</text>'
    )


def _ends(field: _Field, ends: tuple[str, str]) -> str:
    y, right = field.height - 3, field.width - RIGHT
    return (
        f'<text class="tick" x="{LEFT:g}" y="{y:g}" font-size="12">{text(ends[0])}</text>'
        f'<text class="tick" x="{right:g}" y="{y:g}" font-size="12" '
        f'text-anchor="end">{text(ends[1])}</text>'
    )


def _polyline(field: _Field, index: int, one: Line) -> str:
    """The line, broken where it has no value; a lone value is a short stroke."""
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(one.values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(f"{field.x(place):.1f} {field.y(value):.1f}")
    path = "".join(
        "M" + "L".join(p) + ("h1" if len(p) == 1 else "") for p in pieces if p
    )
    dashes = DASHES[index % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<path class="line-{index % len(DASHES)}" d="{path}" fill="none" '
        f'stroke="currentColor" stroke-width="2"{dashed}>'
        f"<title>{text(one.name)}</title></path>"
    )


def _dot(field: _Field, dot: Dot) -> str:
    drawn = (
        f"<title>{text(dot.title)}</title>"
        f'<text x="{field.x(dot.at):.1f}" y="{field.y(dot.value) + 4:.1f}" '
        'font-size="12" text-anchor="middle" fill="currentColor">'
        f"{text(SYMBOLS.get(dot.state, '●'))}</text>"
    )
    return linked(drawn, dot.state, dot.href, dot.title)


def _key(lines: Sequence[Line]) -> Markup:
    """Which line is which; one line needs no key."""
    if len(lines) < 2:
        return Markup()
    items = []
    for index, one in enumerate(lines):
        dashes = DASHES[index % len(DASHES)]
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        items.append(
            f'<li><svg class="swatch line-{index % len(DASHES)}" width="28" height="12" '
            'aria-hidden="true" xmlns="http://www.w3.org/2000/svg">'
            '<path d="M0 6h28" stroke="currentColor" stroke-width="2" fill="none"'
            f"{dashed}/></svg> {text(one.name)}</li>"
        )
    return safe(f'<ul class="legend">{"".join(items)}</ul>')


def ticks(highest: float, *, seconds: bool = False, most: int = 5) -> list[float]:
    """At most `most` + 1 round values from 0 to `highest` or just above it."""
    if highest <= 0:
        return [0.0, 1.0]
    step = _step(highest / most, seconds=seconds)
    values = [0.0]
    while values[-1] < highest and len(values) <= most:
        values.append(len(values) * step)
    return values


def clocked(marks: Sequence[float]) -> list[str]:
    """Marks in seconds as words that differ: `0s`, `0.5s`, `1s`; `1m`, `1m 30s`."""
    if marks[-1] < 60:
        return [f"{mark:.3g}s" for mark in marks]
    return [human_seconds(mark) for mark in marks]


def _step(least: float, *, seconds: bool) -> float:
    """The smallest round number that is not below `least`."""
    if seconds and 1 <= least <= NICE_SECONDS[-1]:
        return float(next(value for value in NICE_SECONDS if value >= least))
    if seconds and least > NICE_SECONDS[-1]:
        return DAY * _step(least / DAY, seconds=False)
    power = 1.0
    while power > least:
        power /= 10
    while power * 10 < least:
        power *= 10
    return next(power * nice for nice in NICE if power * nice >= least * (1 - 1e-9))
