"""The small pictures: sound XML, no script or style, every sign beside its colour."""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings, strategies as st
from markupsafe import Markup

from ci.models import BuildState
from ci.serve import svg
from ci.serve.svg import Bar, Dot, Line, Part

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\"><script>alert(1)</script>\x1b[31m‮' \x00 & ]]>"


def parsed(drawn: Markup) -> ET.Element:
    """The picture and its legend, which must be XML without what a policy forbids."""
    assert isinstance(drawn, Markup)
    root = ET.fromstring(f"<div>{drawn}</div>")  # noqa: S314 - our own text
    for element in root.iter():
        assert element.tag.removeprefix(SVG) not in ("script", "style", "foreignObject")
        assert not [name for name in element.attrib if name.startswith(("on", "style"))]
    return root


def words(root: ET.Element) -> str:
    return " ".join(root.itertext())


def test_bars_tell_state_and_duration_without_colour() -> None:
    values = [
        Bar(60.0, state, f"/builds/{i}", f"#{i}") for i, state in enumerate(BuildState)
    ]
    root = parsed(svg.bars([*values, Bar(120.0, BuildState.SUCCEEDED, "", "long")]))
    links = root.findall(f".//{SVG}a")
    assert [link.get("href") for link in links] == [bar.href for bar in values]
    looks = set()
    for link in links:
        shape, sign = link.find(f"{SVG}rect"), link.find(f"{SVG}text")
        assert shape is not None
        # With every class taken away no two states look alike.
        looks.add(
            (
                shape.get("fill"),
                shape.get("stroke-dasharray"),
                None if sign is None else sign.text,
            )
        )
    assert len(looks) == len(BuildState)
    heights = [float(rect.get("height", "")) for rect in root.iter(f"{SVG}rect")]
    drawn = sorted(heights[::2])
    assert drawn[-1] == pytest.approx(2 * drawn[-2], rel=0.05)


def test_bars_without_builds_or_durations_are_still_a_picture() -> None:
    assert parsed(svg.bars([])).find(f"{SVG}svg") is not None
    root = parsed(svg.bars([Bar(None, "queued", "/builds/1", "waits")]))
    assert "waits" in words(root)


def test_words_from_outside_stay_words() -> None:
    dot = Dot(0, 1.0, "failed", f"/builds/{HOSTILE}", HOSTILE)
    for drawn in (
        svg.bars([Bar(1.0, "failed", f"/{HOSTILE}", HOSTILE)], name=HOSTILE),
        svg.stacked([Part(HOSTILE, 1.0)], name=HOSTILE),
        svg.line(
            [Line(HOSTILE, [1.0]), Line("b", [2.0])],
            [dot],
            name=HOSTILE,
            ends=(HOSTILE, HOSTILE),
        ),
    ):
        root = parsed(drawn)
        assert "<script>alert(1)</script>" in words(root)
        assert "\x1b" not in drawn
        assert "‮" not in drawn


def test_a_stacked_bar_has_the_parts_in_order_and_their_legend() -> None:
    root = parsed(
        svg.stacked([Part("waited", 30.0), Part("built", 90.0), Part("x", 0.1)])
    )
    bar = root.find(f"{SVG}svg")
    assert bar is not None
    rects = list(bar.iter(f"{SVG}rect"))
    assert [rect.get("width") for rect in rects] == ["24.98%", "74.94%", "0.08%"]
    assert [rect.get("x") for rect in rects] == ["0.00%", "24.98%", "99.92%"]
    legend = [" ".join("".join(item.itertext()).split()) for item in root.iter("li")]
    assert legend == ["1 waited 30s 25%", "2 built 1m 30s 75%", "3 x 0.1s 0%"]
    assert not list(parsed(svg.stacked([])).iter("li"))


def test_a_line_breaks_where_nothing_is_known() -> None:
    root = parsed(svg.line([Line("p50", [1.0, 2.0, None, 4.0])], name="x"))
    path = root.find(f".//{SVG}path")
    assert path is not None
    assert path.get("d", "").count("M") == 2
    assert path.get("d", "").count("L") == 1
    assert parsed(svg.line([], name="nothing")).find(f"{SVG}svg") is not None


def test_lines_differ_by_their_dashes_and_dots_by_their_signs() -> None:
    lines = [Line(str(i), [1.0, float(i)]) for i in range(3)]
    dots = [Dot(0, 1.0, "failed", "/builds/1", "#1"), Dot(1, 1.0, "error", "", "#2")]
    root = parsed(svg.line(lines, dots, name="x"))
    # Each line is drawn in the picture and again in the key.
    dashes = [path.get("stroke-dasharray") for path in root.iter(f"{SVG}path")]
    assert len(set(dashes[:3])) == 3
    assert dashes[:3] == dashes[3:]
    assert {"✗", "!"} <= {element.text for element in root.iter(f"{SVG}text")}


@settings(deadline=None)
@given(st.just(0.0) | st.floats(1e-6, 1e9), st.booleans())
def test_ticks_are_few_even_and_reach_the_highest(
    highest: float, seconds: bool
) -> None:
    marks = svg.ticks(highest, seconds=seconds)
    assert marks[0] == 0
    assert 2 <= len(marks) <= 7
    assert marks[-1] >= highest * (1 - 1e-9)
    steps = [b - a for a, b in itertools.pairwise(marks)]
    assert all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    # No more room above than the picture can spare.
    assert highest == 0 or marks[-1] <= 3 * highest + 1e-9 or len(marks) == 2
