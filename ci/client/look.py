"""The words, marks and colours that all renderings of a build share."""

from __future__ import annotations

from ci.client import text
from ci.client.builds import Build, Target
from ci.client.terminal import Side
from ci.client.words import Words

SHORT_SHA = 7
UNKNOWN = "-"
FRESH = 2.0
NAME = 12

MARKS = {
    "queued": "◌",
    "running": "●",
    "succeeded": "✓",
    "failed": "✗",
    "error": "!",
    "cancelled": "⊘",
    "skipped": "–",
}
STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
    "error": "magenta",
    "cancelled": "dim",
    "skipped": "dim",
}


class Look:
    """How things look on one side: its width and colours, our words, the server's time."""

    def __init__(self, side: Side, words: Words, now: float) -> None:
        self.width = side.width
        self.paint = side.paint
        self.words = words
        self.now = now

    def mark(self, state: str) -> str:
        return self.paint(STYLES.get(state, ""), MARKS.get(state, "?"))

    def age(self, moment: str) -> str:
        """`6m` since an RFC 3339 time; empty when it is none."""
        since = text.timestamp(moment)
        return "" if since is None else text.age(self.now - since)

    def ago(self, moment: str) -> str:
        """`6m ago`, `just now`."""
        since = text.timestamp(moment)
        fresh = since is not None and self.now - since < FRESH
        return "just now" if fresh else f"{self.age(moment)} ago"

    def verdict(self, build: Build) -> tuple[str, str]:
        """`failed 3m 12s, attempt 2`, and what stands dimmed behind it: ` · 6m ago`."""
        words = build.state
        if build.final:
            if build.seconds is not None:
                words += " " + text.took(build.seconds)
            behind = f" · {self.ago(build.last_news)}"
        else:
            since = text.timestamp(build.last_news)
            if since is not None:
                words += " " + text.human_seconds(self.now - since)
            behind = ""
        if build.attempt > 1:
            words += f", attempt {build.attempt}"
        if build.pinned:
            words += ", pinned"
        return words, behind

    def target(
        self, target: Target, columns: int | None = None, *, error: bool = False
    ) -> str:
        """`✗ checks.web-test  1m 40s`, and the first line of its error if wanted.

        Without the time where the name would get too little room.
        """
        columns = columns or self.width
        took = "" if target.seconds is None else text.took(target.seconds)
        if columns - len(took) - 4 < NAME:
            took = ""
        name = text.cut(target.name, columns - len(took) - 4)
        line = f"{self.mark(target.state)} {name}"
        if took:
            line += "  " + self.paint("dim", took)
        room = columns - text.width(name) - len(took) - 6
        said = text.plain_lines(target.error)[:1] if error and room >= 8 else []
        return "  ".join([line, *(text.cut(each, room) for each in said)])


def where(build: Build, columns: int) -> str:
    """`dev 1a2b3c4`, the branch cut to so many columns."""
    branch = text.cut(build.branch, columns) if build.branch else "(no branch)"
    return f"{branch} {build.sha[:SHORT_SHA]}"


def record(build: Build) -> str:
    """For programs: number, state, branch, SHA, last change, seconds, URL.

    Nothing in it moves while the state stays: `watch -g` wakes on changes only.
    """
    took = UNKNOWN if build.seconds is None else f"{build.seconds:.0f}"
    branch = build.branch or UNKNOWN
    parts = (str(build.number), build.state, branch, build.sha)
    return "\t".join((*parts, build.last_news or UNKNOWN, took, build.url))


def target_record(target: Target) -> str:
    """For programs: name, state, seconds, first line of its error."""
    took = UNKNOWN if target.seconds is None else f"{target.seconds:.0f}"
    error = text.plain_lines(target.error)[:1] or [UNKNOWN]
    return "\t".join((target.name, target.state, took, *error))


def short(build: Build, look: Look, *, ticking: bool) -> str:
    """`#412 failed dev 1a2b3c4 3m12s http://…/builds/412`, for prompts.

    `ticking` is for readers who see it once; the address goes where there is no room.
    """
    parts = [f"#{build.number}", build.state, where(build, 40)]
    seconds = build.seconds
    since = text.timestamp(build.last_news)
    if seconds is None and ticking and not build.final and since is not None:
        seconds = float(int(look.now - since))
    if seconds is not None:
        parts.append(text.took(seconds).replace(" ", ""))
    line = " ".join([*parts, build.url])
    return line if not ticking or text.width(line) <= look.width else " ".join(parts)


def life_sign(build: Build, now: float) -> str:
    """`#413 running 2m 30s: building: 3 of 14 derivations`."""
    since = text.timestamp(build.last_news)
    took = "" if since is None else f" {text.human_seconds(now - since)}"
    doing = text.one_line(build.summary)
    return f"#{build.number} {build.state}{took}" + (f": {doing}" if doing else "")
