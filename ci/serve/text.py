"""The answers as plain text, for `curl` in a terminal.

Everything that a commit, a branch or a log can say is made printable first, so that no
title can move the cursor or forge a line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from ci.adapters.host import now_ms
from ci.config import Settings
from ci.models import Build, BuildState, Check, Target, human_seconds
from ci.text import printable

SYMBOLS = {
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
NO_BUILD = "no build yet; push a commit, or POST /build/trigger\n"


def build_table(builds: Sequence[Build]) -> str:
    """One line per build, newest first."""
    if not builds:
        return "no build\n"
    rows = [COLUMNS, *(_row(build) for build in builds)]
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


def headline(build: Build) -> str:
    """`✗ #412 dev 1a2b3c4 "web: add page"  failed 3m 12s · 6m ago`."""
    where = printable(build.branch or "(no branch)")
    parts = [str(build.state)]
    if build.seconds is not None:
        parts.append(human_seconds(build.seconds))
    if build.attempt > 1:
        parts.append(f"attempt {build.attempt}")
    if build.pinned:
        parts.append("pinned")
    return (
        f"{SYMBOLS[build.state]} #{build.number} {where} {build.sha[:7]} "
        f'"{printable(build.title)}"  {" ".join(parts)} · {_age(build)} ago'
    )


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


def overview(
    version: str,
    current: Sequence[Build],
    queue: Sequence[Build],
    branches: Sequence[tuple[str, str, Build | None]],
    recent: Sequence[Build],
) -> str:
    """The first page, short enough for a terminal."""
    lines = [f"build-server {version}: {len(current)} running, {len(queue)} queued", ""]
    for repo, branch, last in branches:
        verdict = headline(last) if last else "◌ nothing built yet"
        lines.append(f"{printable(repo)} {printable(branch)}")
        lines.append(f"  {verdict}")
    table = build_table(recent) if recent else NO_BUILD
    more = "more: /builds /builds/N /builds/N/log /build/status /health /openapi.json"
    return "\n".join([*lines, "", table, more]) + "\n"


def checks(found: Iterable[Check]) -> str:
    """One line per check; what is wrong says how to mend it."""
    lines = []
    for check in found:
        mark = "✓" if check.ok else "✗"
        lines.append(f"{mark} {check.name:<12} {printable(check.detail)}")
        if not check.ok and check.fix:
            lines.append(f"  fix: {printable(check.fix)}")
    return "\n".join(lines or ["no checks"]) + "\n"


def _row(build: Build) -> tuple[str, ...]:
    return (
        SYMBOLS[build.state],
        str(build.number),
        str(build.state),
        printable(build.branch or "–"),
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
