"""A build for people: the verdict first, then why, then what to type next.

At most eight lines on 80 columns; on fewer the same, cut or broken where it can be.
"""

from __future__ import annotations

from collections import Counter

from ci.client import text
from ci.client.builds import Build, Target
from ci.client.look import MARKS, STYLES, Look, where
from ci.client.past import Past

TITLE = 18
REASON_LINES = 3
INDENT = "  "
DEEP = "      "

_ORDER = ("succeeded", "failed", "error", "running", "queued", "cancelled", "skipped")


def block(build: Build, look: Look, past: Past | None = None) -> list[str]:
    """The lines of a build; `past` is what the builds before it tell."""
    lines = [*headline(build, look), INDENT + _tally(build, look)]
    lines += _why(build, look)
    if past is not None:
        for line in past.lines(build):
            lines += [INDENT + row for row in text.wrap(line, look.width - 2)]
    return lines + _next(build, look)


def headline(build: Build, look: Look) -> list[str]:
    """One line, or two where the title would not find room beside the verdict."""
    number = look.paint("bold", f"#{build.number}")
    words, behind = look.verdict(build)
    verdict = look.paint(STYLES.get(build.state, ""), words) + look.paint("dim", behind)
    place = _where(build, look)
    front = f"? #{build.number} {place} "
    room = look.width - text.width(front) - len(words + behind) - 4
    if room >= min(text.width(build.title), TITLE):
        title = f'"{text.cut(build.title, room)}"'
        return [f"{look.mark(build.state)} {number} {place} {title}  {verdict}"]
    return [f"{look.mark(build.state)} {number} {verdict}", _title_line(build, look)]


def queued(
    build: Build, look: Look, *, others: int, usual: float | None, again: bool
) -> list[str]:
    """`✓ queued #413 dev 9f3c2e1 "flake: bump nixpkgs"`, and what to expect."""
    word = "queued again" if again else "queued"
    number = look.paint("bold", f"#{build.number}")
    front = f"{look.mark('succeeded')} {word} {number}"
    place = _where(build, look)
    room = look.width - len(f"? {word} #{build.number} {place} ") - 2
    if room >= min(text.width(build.title), TITLE):
        lines = [f'{front} {place} "{text.cut(build.title, room)}"']
    else:
        lines = [front, _title_line(build, look)]
    expected = [f"takes ≈ {text.human_seconds(usual)}"] if usual is not None else []
    expected += [f"{others} more wait{'s' * (others == 1)}"] if others else []
    lines += [INDENT + " · ".join(expected)] if expected else []
    command = look.words.command("logs", "-f", str(build.number))
    return lines + links("follow", command, build.url, look)


def known(build: Build, look: Look, ref: str | None) -> list[str]:
    """`● #413 is running 2m 3s`: a build to join, or one that has ended already."""
    words, behind = look.verdict(build)
    said = f"has ended: {words}" if build.final else f"is {words}"
    number = look.paint("bold", f"#{build.number}")
    if build.final:
        command = look.words.command("trigger", "--force", *([ref] if ref else []))
        next_step = links("again", command, build.url, look)
    else:
        command = look.words.command("logs", "-f", str(build.number))
        next_step = links("follow", command, build.url, look)
    return [
        f"{look.mark(build.state)} {number} {said}{look.paint('dim', behind)}",
        _title_line(build, look),
        *next_step,
    ]


def _where(build: Build, look: Look) -> str:
    return where(build, max(look.width // 3, 8))


def _title_line(build: Build, look: Look) -> str:
    place = _where(build, look)
    room = max(look.width - len(INDENT) - text.width(place) - 3, 8)
    return f'{INDENT}{place} "{text.cut(build.title, room)}"'


def _tally(build: Build, look: Look) -> str:
    """`owner/name · 14 targets  ✓ 11 succeeded  ✗ 3 failed`, as much as fits."""
    room = look.width - len(INDENT)
    repo = f"{build.repo} · "
    if build.state == "succeeded" and build.summary:
        built = text.one_line(build.summary)
        return text.cut(repo + built if len(repo + built) <= room else built, room)
    if not build.targets:
        who = f"{build.cause} by {build.author}" if build.author else build.cause
        return text.cut(repo + who, room)
    counted = Counter(target.state for target in build.targets)
    states = [(state, counted[state]) for state in _ORDER if state in counted]
    total = f"{len(build.targets)} target{'s' * (len(build.targets) != 1)}"
    in_words = [f"{MARKS[state]} {count} {state}" for state, count in states]
    in_marks = [f"{MARKS[state]} {count}" for state, count in states]
    for front, counts in ((repo + total, in_words), (total, in_words)):
        if len("  ".join([front, *counts])) <= room:
            return _painted(front, counts, states, look)
    return _painted(total, in_marks, states, look)


def _painted(
    front: str, counts: list[str], states: list[tuple[str, int]], look: Look
) -> str:
    shown = [
        look.paint(STYLES[state], count)
        for (state, _), count in zip(states, counts, strict=True)
    ]
    return "  ".join([front, *shown])


def _why(build: Build, look: Look) -> list[str]:
    """What failed, or the server's own words when no target explains the state."""
    failing = build.failing
    if not failing:
        return [] if build.state == "succeeded" else _reason(build.summary, look)
    shown = failing[:2]
    # So many rows for each, that the whole has eight lines at most.
    rows = {1: [3], 2: [1, 1]}.get(len(failing), [1, 0])
    lines = []
    for target, most in zip(shown, rows, strict=True):
        lines.append(INDENT + look.target(target, look.width - len(INDENT)))
        said = _said(build, target, look.width - len(DEEP), most) if most else []
        lines += [DEEP + row for row in said]
    if len(failing) > len(shown):
        lines.append(f"{INDENT}… and {len(failing) - len(shown)} more")
    return lines


def _said(build: Build, target: Target, columns: int, rows: int) -> list[str]:
    """The lines of the log that say why, else the server's words for it."""
    excerpt = build.excerpt(target)
    shown = excerpt.telling(target.error, rows) if excerpt else []
    if not shown:
        return text.wrap(text.one_line(target.error), columns, rows)
    margin = min(len(row) - len(row.lstrip()) for row in shown)
    return [text.cut(row[margin:], columns) for row in shown]


def _reason(summary: str, look: Look) -> list[str]:
    rows = text.wrap(text.one_line(summary), look.width - len(INDENT), REASON_LINES)
    return [INDENT + row for row in rows]


def _next(build: Build, look: Look) -> list[str]:
    """What to type next, and the page."""
    words, number = look.words, str(build.number)
    if not build.final:
        return links("follow", words.command("logs", "-f", number), build.url, look)
    if build.state == "failed":
        target = build.failing[:1]
        command = words.command("logs", number, *(each.own_name for each in target))
        return links("log", command, _page(build, target, look), look)
    if build.state == "error":
        return links("log", words.command("logs", number), build.url, look)
    if build.state in ("cancelled", "skipped"):
        return links("again", words.command("retry", number), build.url, look)
    return [INDENT + build.url]


def _page(build: Build, failing: list[Target], look: Look) -> str:
    """Where to look: at the line of the log that says why, else at the build.

    The shorter of the two where the other would be broken.
    """
    excerpt = build.excerpt(failing[0] if failing else None)
    if excerpt is None:
        return build.url
    url = f"{build.url}/log#L{excerpt.line}"
    return url if len(INDENT + url) <= look.width else build.url


def links(label: str, command: str, url: str, look: Look) -> list[str]:
    """A command and an address, on one line if both fit; neither is ever cut."""
    front = f"{INDENT}{look.paint('dim', label)}  {command}"
    if len(f"{INDENT}{label}  {command}    {url}") <= look.width:
        return [f"{front}    {url}"]
    return [front, INDENT + url]
