"""Builds as a table: columns for people, as many as the terminal has room for."""

from __future__ import annotations

from collections.abc import Sequence

from ci.client import text
from ci.client.builds import Build
from ci.client.look import MARKS, SHORT_SHA, STYLES, UNKNOWN, Look, record

TITLE = 16
LONGEST = 20

# What makes room for the title on a narrow terminal, the most dispensable first.
_DISPENSABLE = ("REPO", "TOOK", "COMMIT", "BRANCH", "WHEN")


def records(builds: Sequence[Build]) -> list[str]:
    """For programs: as `bs` says it, and the title."""
    return [f"{record(build)}\t{build.title}" for build in builds]


def table(builds: Sequence[Build], look: Look) -> list[str]:
    """A heading, and a line per build, none wider than the terminal."""
    rows = [_cells(build, look) for build in builds]
    names = [name for name in rows[0] if name != "TITLE"]
    if len({build.repo for build in builds}) == 1:
        names.remove("REPO")
    widths = {
        name: max(len(name), *(text.width(row[name]) for row in rows)) for name in names
    }
    for name in _DISPENSABLE:
        if _room(look, widths) >= TITLE:
            break
        widths.pop(name, None)
    head = _line({name: name for name in (*widths, "TITLE")}, widths, look)
    lines = [look.paint("dim", "  " + head)]
    for build, row in zip(builds, rows, strict=True):
        style = STYLES.get(build.state, "")
        lines.append(f"{look.mark(build.state)} {_line(row, widths, look, style)}")
    return lines


def _cells(build: Build, look: Look) -> dict[str, str]:
    took = UNKNOWN if build.seconds is None else text.took(build.seconds)
    return {
        "#": str(build.number),
        "STATE": build.state
        if build.state in MARKS
        else text.cut(build.state, LONGEST),
        "REPO": text.cut(build.repo, LONGEST),
        "BRANCH": text.cut(build.branch or UNKNOWN, LONGEST),
        "COMMIT": build.sha[:SHORT_SHA],
        "TOOK": took,
        "WHEN": look.age(build.last_news),
        "TITLE": build.title,
    }


def _room(look: Look, widths: dict[str, int]) -> int:
    """Columns that are left for the title."""
    return look.width - 2 - sum(columns + 2 for columns in widths.values())


def _line(
    row: dict[str, str], widths: dict[str, int], look: Look, style: str = ""
) -> str:
    """The cells under their headings; `style` is that of the state."""
    cells = []
    for name, columns in widths.items():
        cell = text.pad(row[name], columns)
        cells.append(look.paint(style, cell) if name == "STATE" else cell)
    title = text.cut(row["TITLE"], max(_room(look, widths), 1))
    return "  ".join([*cells, title]).rstrip()
