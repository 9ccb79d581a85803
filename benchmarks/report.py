"""What a benchmark says: Markdown tables, and for each goal whether it was met."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH = 90
Row = Sequence[str | int | float | None]


@dataclass(frozen=True)
class Goal:
    """One promise about speed, what was measured, and whether that keeps it."""

    sentence: str
    measured: str
    met: bool


@dataclass
class Report:
    """Prints at once what it is told, and keeps it; `text` is all of it so far."""

    goals: list[Goal] = field(default_factory=list)
    text: str = ""

    def heading(self, title: str) -> None:
        self._say(f"### {title}\n")

    def note(self, sentence: str) -> None:
        self._say(f"{textwrap.fill(sentence, WIDTH)}\n")

    def table(self, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Columns whose cells are numbers are set to the right."""
        cells = [[_cell(value) for value in row] for row in rows]
        numeric = [
            all(not isinstance(row[index], str) for row in rows)
            for index in range(len(columns))
        ]
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        rules = [
            "-" * (width - 1) + (":" if right else "-")
            for width, right in zip(widths, numeric, strict=True)
        ]
        lines = [_line(row, widths, numeric) for row in (columns, rules, *cells)]
        self._say("\n".join(lines) + "\n")

    def goal(self, sentence: str, measured: str, met: bool) -> None:
        self.goals.append(Goal(sentence, measured, met))

    def summary(self) -> None:
        """All goals of the run, met or not."""
        if self.goals:
            self.heading("Goals")
            rows = [
                (goal.sentence, goal.measured, "yes" if goal.met else "**no**")
                for goal in self.goals
            ]
            self.table(("goal", "measured", "met"), rows)

    def _say(self, text: str) -> None:
        print(text, flush=True)
        self.text += f"{text}\n"


def median(values: Sequence[float]) -> float:
    """The median; NaN of nothing."""
    return statistics.median(values) if values else float("nan")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of all do not exceed."""
    ordered = sorted(values)
    rank = max(0, -(-len(ordered) * percent // 100) - 1)
    return ordered[int(rank)]


def _cell(value: str | int | float | None) -> str:
    """Three digits that matter: 12 345, 123, 12.3, 1.23, 0.123."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    for digits, least in ((1, 10), (2, 1)):
        if abs(value) >= least:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return f"| {' | '.join(padded)} |"
