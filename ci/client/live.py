"""What the live rows of a terminal say while a build is waited for.

Targets that have ended scroll away above them, one line each.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from ci.client import text
from ci.client.builds import Build, Target
from ci.client.exits import Failure
from ci.client.look import MARKS, STYLES, Look
from ci.client.past import remaining, typical
from ci.client.region import Region
from ci.client.session import Session
from ci.client.watch import just_ended

FRAME = 0.2
LOG_EVERY = 1.0
LOG_AT_LEAST = 8.0
LOG_LINES = 20
MARGIN = 1
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

_ALWAYS = ("succeeded", "failed", "running", "queued")
_SOMETIMES = ("error", "cancelled", "skipped")


class Live:
    """Draws one build on `region`; for `watch`, which gives it the news and the time."""

    def __init__(self, session: Session, region: Region) -> None:
        self._session = session
        self._region = region
        self._build: Build | None = None
        self._begun: dict[str, tuple[float, bool]] = {}
        self._usual: list[float | None] | None = None
        self._said: list[str] = []
        self._asked_at = 0.0
        self._ask_every = LOG_EVERY
        self._frame = 0

    def tell(self, build: Build, before: Build | None) -> None:
        """News: what has ended scrolls away, for good."""
        look = self._session.look()
        above = []
        if before is not None and build.attempt > before.attempt > 0:
            words, _ = look.verdict(build)
            above.append(f"{look.mark(build.state)} #{build.number} {words}")
        ended = just_ended(build, before)
        above += [look.target(target, error=True) for target in ended]
        self._note_begins(build, before)
        self._build = build
        if above:
            self._draw(above)

    def seen(self, build: Build) -> None:
        """The build as it is now; also asks for the end of its log, not too often.

        Of a log that does not grow, less and less often.
        """
        self._note_begins(build, self._build)
        self._build = build
        now = time.monotonic()
        if build.state != "running" or now - self._asked_at < self._ask_every:
            return
        self._asked_at, said = now, self._said
        with suppress(Failure):
            lines = self._session.api.last_lines(build.number, LOG_LINES)
            self._said = [row for line in lines for row in text.plain_lines(line)]
        grows = self._said != said
        self._ask_every = LOG_EVERY if grows else min(2 * self._ask_every, LOG_AT_LEAST)

    def pause(self, seconds: float, descriptors: Sequence[int] = ()) -> None:
        """Spend so many seconds drawing, or until one of `descriptors` can be read."""
        until = time.monotonic() + seconds
        while True:
            self._draw()
            left = until - time.monotonic()
            if left <= 0 or self._region.pause(min(left, FRAME), descriptors):
                return
            self._frame += 1

    def _note_begins(self, build: Build, before: Build | None) -> None:
        """Since when each target runs: exactly if we have seen it wait before."""
        running = {each.name for each in build.targets if each.state == "running"}
        now, exact = time.monotonic(), before is not None
        self._begun = {
            name: self._begun.get(name, (now, exact)) for name in sorted(running)
        }

    def _draw(self, above: list[str] | None = None) -> None:
        if self._build is None:
            return
        self._session.screen.out.measure()
        look = self._session.look()
        # One column stays free: some terminals break a row that fills the last one.
        look.width = max(look.width - MARGIN, 1)
        self._region.draw(self._rows(self._build, look), above or [])

    def _rows(self, build: Build, look: Look) -> list[str]:
        """The heading, what runs, and the last line of the log, as many as there may be."""
        room = self._region.height - 1
        rows = [heading(build, look, self._left(build))]
        running = sorted(
            (each for each in build.targets if each.name in self._begun),
            key=lambda each: self._begun[each.name][0],
        )
        own, said = _last_line(self._said, running[:1])
        with_log = bool(said) and room >= 2
        room -= with_log
        shown = running if len(running) <= room else running[: max(room - 1, 0)]
        rows += [self._target_row(each, look) for each in shown]
        if len(shown) < len(running) and room > 0:
            rows.append(look.paint("dim", f"   … and {len(running) - len(shown)} more"))
        if with_log:
            row = look.paint("dim", text.cut(f"     {said}", look.width))
            rows.insert(2 if own else len(rows), row)
        return rows

    def _target_row(self, target: Target, look: Look) -> str:
        began, exact = self._begun[target.name]
        took = text.human_seconds(time.monotonic() - began)
        took = took if exact else f"> {took}"
        mark = SPINNER[self._frame % len(SPINNER)]
        name = text.cut(target.name, max(look.width - len(took) - 5, 1))
        row = f" {mark} {name}"
        if text.width(row) + 2 + len(took) > look.width:
            return text.cut(row, look.width)
        painted = f" {look.paint('cyan', mark)} {name}"
        return f"{painted}  {look.paint('dim', took)}"

    def _left(self, build: Build) -> float | None:
        """Seconds that are still to be expected; None when nobody knows."""
        if build.detailed:
            usual = build.expected
        else:
            if self._usual is None:
                self._usual = [None]
                with suppress(Failure):
                    self._usual = [typical(self._session.api, build)]
            (usual,) = self._usual
        return remaining(build, usual, self._session.server.now())


def _last_line(said: list[str], oldest: list[Target]) -> tuple[bool, str]:
    """Whether it is that target's own, and the last line of the log.

    Builders' lines begin with the name of their derivation: `web-test> request 12`.
    """
    for target in oldest:
        front = target.name.rpartition(".")[2] + "> "
        for line in reversed(said):
            if line.startswith(front):
                return True, line.removeprefix(front).strip()
    return False, said[-1].strip() if said else ""


def heading(build: Build, look: Look, left: float | None) -> str:
    """`#413 building · ✓ 9 ✗ 0 ● 2 ◌ 3 · 1m 44s · ≈ 1m 30s left`, as much as fits."""
    number = f"#{build.number}"
    word = _doing(build)
    since = text.timestamp(build.last_news)
    took = "" if since is None else text.human_seconds(look.now - since)
    expected = "" if left is None else f"≈ {text.human_seconds(left)}"
    expected += " left" if expected and build.state == "running" else ""
    if build.state == "queued" and build.waits:
        waits = f"{number} {word} {took}: {build.waits}"
        return f" {text.cut(waits, max(look.width - 1, 1))}"
    for front, brief, behind in (
        (f"{number} {word}", False, expected),
        (number, False, expected),
        (number, True, expected),
        (number, True, ""),
    ):
        counts = _counts(build, brief=brief)
        marks = " ".join(f"{MARKS[state]} {count}" for state, count in counts)
        parts = [part for part in (front, marks, took, behind) if part]
        if text.width(" · ".join(parts)) < look.width:
            return " " + " · ".join(_painted(parts, front, marks, counts, look))
    return " " + text.cut(f"{number} {took}".rstrip(), max(look.width - 1, 1))


def _painted(
    parts: list[str],
    front: str,
    marks: str,
    counts: list[tuple[str, int]],
    look: Look,
) -> list[str]:
    colours = " ".join(
        look.paint(STYLES[state] if count else "dim", f"{MARKS[state]} {count}")
        for state, count in counts
    )
    painted = {front: look.paint("bold", front), marks: colours}
    return [painted.get(part, part) for part in parts]


def _doing(build: Build) -> str:
    """`building` of `building: 3 of 14 derivations`; else the state."""
    word, colon, _ = text.one_line(build.summary).partition(":")
    known = build.state == "running" and colon and word.isalpha() and len(word) <= 12
    return word if known else build.state


def _counts(build: Build, *, brief: bool) -> list[tuple[str, int]]:
    """How many targets are in each state; `brief` leaves out what there is none of."""
    if not build.targets or build.state == "queued":
        return []
    counted = Counter(target.state for target in build.targets)
    always = () if brief else _ALWAYS
    return [
        (state, counted[state])
        for state in (*_ALWAYS, *_SOMETIMES)
        if counted[state] or state in always
    ]
