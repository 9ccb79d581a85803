"""Half a year of days, and how what ended on each of them ended; the days are UTC's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime

from markupsafe import Markup
from pydantic import Field

from ci.history.days import DAY_MS, day_of
from ci.models import BuildState
from ci.serve import shapes
from ci.serve.svg import frame, safe

WEEKS = 26
CELL, STEP = 11, 13
LEFT, TOP = 28, 16
NAMES = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
# From so many good builds of a day on its square is as strong as this.
STRONGER = ((10, ""), (4, "0.75"), (1, "0.5"))
# For a terminal: what `_kind` finds.
SIGNS = {"good": "✓", "mixed": "±", "bad": "✗", "ours": "!", "other": "–"}


class CalendarDay(shapes.Shape):
    """What ended on one day."""

    day: str = Field(description="YYYY-MM-DD, UTC")
    succeeded: int
    failed: int
    error: int
    cancelled: int
    skipped: int

    @property
    def words(self) -> str:
        """`3 succeeded, 1 failed`."""
        return ", ".join(f"{n} {state}" for state, n in self.ends if n)

    @property
    def ends(self) -> list[tuple[BuildState, int]]:
        return [
            (BuildState.SUCCEEDED, self.succeeded),
            (BuildState.FAILED, self.failed),
            (BuildState.ERROR, self.error),
            (BuildState.CANCELLED, self.cancelled),
            (BuildState.SKIPPED, self.skipped),
        ]

    @property
    def kind(self) -> str:
        """good, mixed, bad, ours or other: what its square says."""
        if self.succeeded:
            return "mixed" if self.failed else "good"
        if self.failed:
            return "bad"
        return "ours" if self.error else "other"


class Calendar(shapes.Shape):
    """The last half year of a branch, or of a whole repository."""

    since: str = Field(description="its first day, a Monday: YYYY-MM-DD, UTC")
    until: str = Field(description="its last day, today")
    days: list[CalendarDay] = Field(description="on which something ended, in order")


def first_day(now: int) -> int:
    """The day with which the calendar begins, as history/days.py numbers them."""
    today = day_of(now)
    return today - _weekday(today) - 7 * (WEEKS - 1)


def calendar(found: Mapping[int, Mapping[BuildState, int]], now: int) -> Calendar:
    """From what days.calendar has read at the moment `now`, in milliseconds."""
    return Calendar(
        since=_named(first_day(now)),
        until=_named(day_of(now)),
        days=[_day(day, ends) for day, ends in found.items()],
    )


def picture(shown: Calendar, name: str) -> Markup:
    """A square for each day, a column for each week. A sign stands for each colour."""
    first, last = _number(shown.since), _number(shown.until)
    told = {_number(each.day): each for each in shown.days}
    drawn = [*_weekdays(), *_months(first)]
    for day in range(first, last + 1):
        week, row = divmod(day - first, 7)
        x, y = LEFT + STEP * week, TOP + STEP * row
        drawn.append(_square(x, y, told.get(day)))
    width, height = LEFT + STEP * WEEKS, TOP + STEP * 7
    return frame("plot calendar", width, height, name, "".join(drawn))


def rows(shown: Calendar) -> Markup:
    """The days as rows of a table, the newest first."""
    made = []
    for day in reversed(shown.days):
        numbers = "".join(f'<td class="number">{n or "–"}</td>' for _, n in day.ends)
        made.append(f'<tr><th scope="row">{day.day}</th>{numbers}</tr>')
    return safe("\n".join(made))


def lines(shown: Calendar) -> Iterator[str]:
    """The same for a terminal: a line for each day of the week."""
    if not shown.days:
        return
    first, last = _number(shown.since), _number(shown.until)
    told = {_number(each.day): SIGNS[each.kind] for each in shown.days}
    yield f"day by day since {shown.since}: ✓ good, ± some failed, ✗ failed, ! ours"
    for row, name in enumerate(NAMES):
        days = range(first + row, last + 1, 7)
        yield f"  {name} {''.join(told.get(day, '·') for day in days)}"


def _square(x: int, y: int, day: CalendarDay | None) -> str:
    if day is None:
        return f'<rect class="none" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>'
    inside = f"<title>{day.day}: {day.words}</title>"
    whole = f'x="{x}" y="{y}" width="{CELL}" height="{CELL}"'
    hollow = (
        f'x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" fill="none" '
        'stroke="currentColor" stroke-width="2"'
    )
    match day.kind:
        case "good":
            faint = next(how for least, how in STRONGER if day.succeeded >= least)
            opacity = f' fill-opacity="{faint}"' if faint else ""
            drawn = f'<rect {whole} fill="currentColor"{opacity}/>'
            state = BuildState.SUCCEEDED
        case "mixed":
            # Half of it is green: what failed lies in front of it, as a triangle.
            drawn = (
                f'<rect class="is-succeeded" {whole} fill="currentColor" fill-opacity="0.5"/>'
                f'<path d="M{x} {y + CELL}v-{CELL}l{CELL} {CELL}z" fill="currentColor"/>'
            )
            state = BuildState.FAILED
        case "bad":
            drawn = (
                f'<rect {whole} fill="currentColor"/><path class="on-part" '
                f'd="M{x + 3} {y + 3}l5 5m0-5l-5 5" stroke-width="1.5"/>'
            )
            state = BuildState.FAILED
        case "ours":
            drawn, state = f"<rect {hollow}/>", BuildState.ERROR
        case _:
            drawn = f'<rect {hollow} stroke-dasharray="2 2"/>'
            state = BuildState.CANCELLED
    return f'<g class="is-{state}">{inside}{drawn}</g>'


def _weekdays() -> Iterator[str]:
    for row in (0, 2, 4):
        y = TOP + STEP * row + 10
        yield f'<text class="tick" x="0" y="{y}" font-size="11">{NAMES[row]}</text>'


def _months(first: int) -> Iterator[str]:
    """The name of a month above the week in which its first day is."""
    for week in range(WEEKS):
        days = [_date(first + 7 * week + row) for row in range(7)]
        begun = next((day for day in days if day.day == 1), None)
        # What would stand out at the right is left to the next month.
        if begun is not None and week < WEEKS - 1:
            x = LEFT + STEP * week
            name = MONTHS[begun.month - 1]
            yield f'<text class="tick" x="{x}" y="11" font-size="11">{name}</text>'


def legend() -> Sequence[tuple[Markup, str]]:
    """A square of each kind with what it says."""
    kinds = (
        ({"succeeded": 10}, "all succeeded; stronger: more"),
        ({"succeeded": 1, "failed": 1}, "some failed"),
        ({"failed": 1}, "failed"),
        ({"error": 1}, "errors of ours only"),
        ({"cancelled": 1}, "cancelled or skipped"),
    )
    none = dict.fromkeys(("succeeded", "failed", "error", "cancelled", "skipped"), 0)
    return [
        (_sample(CalendarDay(day="", **{**none, **n})), words) for n, words in kinds
    ]


def _sample(day: CalendarDay) -> Markup:
    return safe(
        f'<svg class="swatch" width="{CELL}" height="{CELL}" aria-hidden="true" '
        f'xmlns="http://www.w3.org/2000/svg">{_square(0, 0, day)}</svg>'
    )


def _day(day: int, ends: Mapping[BuildState, int]) -> CalendarDay:
    return CalendarDay(
        day=_named(day),
        succeeded=ends.get(BuildState.SUCCEEDED, 0),
        failed=ends.get(BuildState.FAILED, 0),
        error=ends.get(BuildState.ERROR, 0),
        cancelled=ends.get(BuildState.CANCELLED, 0),
        skipped=ends.get(BuildState.SKIPPED, 0),
    )


def _date(day: int) -> date:
    return datetime.fromtimestamp(day * DAY_MS / 1000, UTC).date()


def _named(day: int) -> str:
    return _date(day).isoformat()


def _number(name: str) -> int:
    return (date.fromisoformat(name) - date(1970, 1, 1)).days


def _weekday(day: int) -> int:
    """0 for a Monday; the epoch began on a Thursday."""
    return (day + 3) % 7
