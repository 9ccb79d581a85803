"""The answers as plain text, for `curl` in a terminal.

Everything that a commit, a branch or a log can say is made printable first, so that no
title can move the cursor or forge a line.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ci.adapters.host import now_ms
from ci.config import Settings
from ci.models import Build, BuildState, Check, Target, human_seconds
from ci.text import printable

SYMBOLS: Mapping[str, str] = {
    BuildState.QUEUED: "◌",
    BuildState.RUNNING: "●",
    BuildState.SUCCEEDED: "✓",
    BuildState.FAILED: "✗",
    BuildState.ERROR: "!",
    BuildState.CANCELLED: "⊘",
    BuildState.SKIPPED: "–",
}
COLUMNS = ("", "#", "STATE", "BRANCH", "COMMIT", "TOOK", "WHEN", "TITLE")
ERROR_LINES = 12
NO_BUILD = "no build yet; push a commit, or POST /build/trigger; /setup tells more\n"
WIDTH = 80
BRANCH_WIDTH = 16
# SGR parameters, for whoever asked for colour.
COLOURS: Mapping[str, str] = {
    BuildState.QUEUED: "33",
    BuildState.RUNNING: "34",
    BuildState.SUCCEEDED: "32",
    BuildState.FAILED: "31",
    BuildState.ERROR: "35",
    BuildState.CANCELLED: "2",
    BuildState.SKIPPED: "2",
}
_MARK = re.compile(rf"^( *)([{''.join(SYMBOLS.values())}])(?= )", re.MULTILINE)
_BY_SYMBOL = {symbol: state for state, symbol in SYMBOLS.items()}


def build_table(builds: Sequence[Build], branch_width: int | None = None) -> str:
    """One line per build, newest first; branches cut to `branch_width` columns."""
    if not builds:
        return "no build\n"
    rows = [COLUMNS, *(_row(build, branch_width) for build in builds)]
    widths = [max(len(row[column]) for row in rows) for column in range(7)]
    return "".join(_aligned(row, widths) + "\n" for row in rows)


def build(found: Build, settings: Settings) -> str:
    """One build: the verdict first, then what failed, then the rest."""
    url = f"{settings.public_url}/builds/{found.number}"
    who = [found.repo, found.author and f"by {found.author}", found.cause]
    lines = [
        headline(found),
        "  " + printable(" · ".join(part for part in who if part)),
    ]
    if found.summary:
        lines.append("  " + printable(found.summary))
    lines += _targets(found.targets)
    lines.append(f"  {url}    log {url}/log")
    return "\n".join(lines) + "\n"


def headline(build: Build, width: int | None = None) -> str:
    """`✗ #412 dev 1a2b3c4 "web: add page"  failed 3m 12s · 6m ago`.

    With a `width` in columns the branch and the title give way to the verdict.
    """
    where = printable(build.branch or "(no branch)")
    parts = [str(build.state)]
    if build.seconds is not None:
        parts.append(human_seconds(build.seconds))
    if build.attempt > 1:
        parts.append(f"attempt {build.attempt}")
    if build.pinned:
        parts.append("pinned")
    if width is not None:
        where = cut(where, BRANCH_WIDTH)
    start = f"{SYMBOLS[build.state]} #{build.number} {where} {build.sha[:7]} "
    end = f"  {' '.join(parts)} · {_age(build)} ago"
    title = printable(build.title)
    if width is not None:
        title = cut(title, max(8, width - columns(start) - columns(end) - 2))
    return f'{start}"{title}"{end}'


def columns(text: str) -> int:
    """How many columns of a terminal printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def cut(text: str, width: int) -> str:
    """`text`, or as much of it as fits into so many columns with a `…`."""
    if columns(text) <= width:
        return text
    kept, used = "", 1
    for char in text:
        used += _columns(char)
        if used > width:
            break
        kept += char
    return kept + "…"


def coloured(text: str) -> str:
    """The same with the state that a line begins with in its colour."""
    return _MARK.sub(
        lambda found: (
            f"{found[1]}\x1b[{COLOURS[_BY_SYMBOL[found[2]]]}m{found[2]}\x1b[0m"
        ),
        text,
    )


def _columns(char: str) -> int:
    if unicodedata.combining(char) or char in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def status(
    current: Sequence[Build],
    queue: Sequence[Build],
    last: Build | None,
    settings: Settings,
) -> str:
    """What runs, what waits, and the last verdict."""
    live = "".join(headline(found) + "\n" for found in (*current, *queue))
    if last is not None:
        return live + build(last, settings)
    return live or NO_BUILD


def sections(parts: Mapping[str, Sequence[str]]) -> str:
    """Headings with their lines below them, an empty line between."""
    return "\n".join("\n".join([name, *lines]) + "\n" for name, lines in parts.items())


def checks(found: Iterable[Check]) -> str:
    """One line per check; what is wrong says how to mend it."""
    lines = []
    for check in found:
        mark = "✓" if check.ok else "✗"
        lines.append(f"{mark} {check.name:<12} {printable(check.detail)}")
        if not check.ok and check.fix:
            lines.append(f"  fix: {printable(check.fix)}")
    return "\n".join(lines or ["no checks"]) + "\n"


def _row(build: Build, branch_width: int | None) -> tuple[str, ...]:
    branch = printable(build.branch or "–")
    return (
        SYMBOLS[build.state],
        str(build.number),
        str(build.state),
        branch if branch_width is None else cut(branch, branch_width),
        build.sha[:7],
        "–" if build.seconds is None else human_seconds(build.seconds),
        _age(build),
        printable(build.title),
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
    return "  ".join([" ".join(cells[:2]), *cells[2:], row[-1]]).rstrip()


def _age(build: Build) -> str:
    """The larger unit of the time since the build's last news."""
    at = build.finished_at or build.started_at or build.queued_at
    return human_seconds(max(0, now_ms() - at) / 1000).split()[0]


def _targets(targets: Sequence[Target]) -> list[str]:
    if not targets:
        return []
    states = Counter(target.state for target in targets)
    tally = "  ".join(f"{SYMBOLS[state]} {n} {state}" for state, n in states.items())
    lines = [f"  {len(targets)} targets  {tally}"]
    order = [BuildState.FAILED, BuildState.ERROR, BuildState.RUNNING]
    for target in sorted(
        targets,
        key=lambda t: order.index(t.state) if t.state in order else len(order),
    ):
        lines += _target(target)
    return lines


def _target(target: Target) -> list[str]:
    took = "" if target.seconds is None else f"  {human_seconds(target.seconds)}"
    lines = [f"  {SYMBOLS[target.state]} {printable(target.name)}{took}"]
    for line in (target.error or "").splitlines()[:ERROR_LINES]:
        lines.append("      " + printable(line))
    for output, path in (target.outputs or {}).items():
        lines.append(f"      {printable(output)} {printable(path)}")
    return lines
