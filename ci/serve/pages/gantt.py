"""The timeline of an attempt as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from ci.history.timeline import Stay
from ci.models import BuildState, human_seconds
from ci.serve import svg
from ci.serve.pages.shown import HERE, Shown

WIDTH, MARGIN = 1160.0, 8.0
LANE, BAR, HEADING, AXIS = 22.0, 17.0, 20.0, 20.0
# Of a name in the picture.
LETTER = 6.7
# For a picture on its own, which no stylesheet colours: those of the light one.
ALONE: Mapping[str, str] = {
    'class="is-succeeded"': 'color="#1a7f37"',
    'class="is-failed"': 'color="#cf222e"',
    'class="is-running"': 'color="#0969da"',
    'class="is-cancelled"': 'color="#57606a"',
    'class="step"': 'color="#7d5c00"',
    'class="grid"': 'stroke="#d0d7de"',
    'class="on-part"': 'fill="#fff"',
    'class="strip"': 'fill="#1f2328"',
    'class="tick"': 'fill="#57606a"',
    'class="name"': 'fill="#1f2328"',
    'class="plot gantt wide"': 'font-family="sans-serif"',
}


def picture(shown: Shown) -> Markup:
    """The whole as SVG: a lane for each builder, time to the right, steps on top."""
    y = AXIS
    drawn = []
    if shown.steps:
        drawn.append(_steps(shown, y))
        y += LANE
    for machine, rows in shown.lanes.items():
        drawn.append(
            f'<text class="tick" x="{MARGIN:g}" y="{y + 14:g}" font-size="12">'
            f"{svg.text(machine or HERE)}</text>"
        )
        y += HEADING
        for row in rows:
            drawn.append(_lane(shown, row, y))
            y += LANE
    height = y + 4
    name = f"Timeline of build {shown.build.number}"
    inside = _grid(shown, height) + "".join(drawn)
    return svg.frame("plot gantt", WIDTH, height, name, inside, wide=True)


def alone(shown: Shown) -> bytes:
    """The picture as a file of its own."""
    drawn = str(picture(shown))
    for ours, theirs in ALONE.items():
        drawn = drawn.replace(ours, theirs)
    head, tag, rest = drawn.partition(">")
    return f'{head}{tag}<rect width="100%" height="100%" fill="#fff"/>{rest}\n'.encode()


def _x(shown: Shown, at: int) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * (at - shown.begin) / (
        shown.end - shown.begin
    )


def _grid(shown: Shown, height: float) -> str:
    marks = svg.ticks(shown.seconds, seconds=True, most=8)
    lines = []
    for mark, words in zip(marks, svg.clocked(marks), strict=True):
        x = _x(shown, shown.begin + int(mark * 1000))
        if x > WIDTH - MARGIN:
            continue
        lines.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="16" y2="{height:g}"/>'
            f'<text class="tick" x="{x + 2:.1f}" y="12" font-size="12">'
            f"{words}</text>"
        )
    return "".join(lines)


def _steps(shown: Shown, y: float) -> str:
    """What the attempt did, one after the other: outlined, since nothing is built yet."""
    begins = shown.step_begins
    drawn = []
    for (name, seconds), at, following in zip(
        shown.steps, begins, [*begins[1:], shown.now], strict=True
    ):
        x = _x(shown, at)
        width = max(_x(shown, following) - x, 1.0)
        words = name if len(name) * LETTER + 6 <= width else ""
        drawn.append(
            f'<g class="step"><title>{svg.text(name)} · {human_seconds(seconds)}</title>'
            f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{BAR:g}" '
            'fill="none" stroke="currentColor"/>'
            f'<text x="{x + 4:.1f}" y="{y + 13:g}" font-size="12" '
            f'fill="currentColor">{svg.text(words)}</text></g>'
        )
    return "".join(drawn)


def _lane(shown: Shown, row: Sequence[Stay], y: float) -> str:
    begins = [_x(shown, stay.started_at) for stay in row]
    rooms = [*begins[1:], WIDTH]
    return "".join(
        _bar(shown, stay, x, y, room)
        for stay, x, room in zip(row, begins, rooms, strict=True)
    )


SIGNS: Mapping[BuildState, str] = {
    BuildState.SUCCEEDED: "",
    BuildState.FAILED: "✗ ",
    BuildState.RUNNING: "● ",
    BuildState.CANCELLED: "⊘ ",
}
DASHES: Mapping[BuildState, str] = {
    BuildState.FAILED: "",
    BuildState.RUNNING: ' stroke-dasharray="4 2"',
    BuildState.CANCELLED: ' stroke-dasharray="2 2"',
}


def _bar(shown: Shown, stay: Stay, x: float, y: float, room: float) -> str:
    """One bar; `room` is where the next one in its lane begins."""
    state, critical = shown.state(stay), stay.path in shown.critical
    width = max(_x(shown, stay.end(shown.now)) - x, 1.0)
    place = f'x="{x:.1f}" y="{y:g}" width="{width:.1f}"'
    shape = (
        f'<rect {place} height="{BAR:g}" fill="currentColor"/>'
        if state is BuildState.SUCCEEDED
        else f'<rect {place} height="{BAR:g}" fill="none" stroke="currentColor"'
        f"{DASHES[state]}/>"
    )
    if critical:
        shape += (
            f'<rect class="strip" x="{x:.1f}" y="{y + BAR - 4:g}" '
            f'width="{width:.1f}" height="4"/>'
        )
    words = SIGNS[state] + "◆ " * critical + stay.name
    return (
        f'<g class="is-{state}"><title>{svg.text(shown.told(stay))}</title>{shape}'
        f"{_name(words, state, x, y, width, room)}</g>"
    )


def _name(
    words: str, state: BuildState, x: float, y: float, width: float, room: float
) -> str:
    """The name in its bar or, where that is too short, behind it; else nowhere."""
    needed = len(words) * LETTER + 6
    if needed <= width:
        kind = "on-part" if state is BuildState.SUCCEEDED else "name"
        at = x + 4
    elif x + width + needed <= room:
        kind, at = "name", x + width + 4
    else:
        return ""
    return (
        f'<text class="{kind}" x="{at:.1f}" y="{y + 12:g}" font-size="12">'
        f"{svg.text(words)}</text>"
    )
