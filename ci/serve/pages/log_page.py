"""The log as a page: what stands around the lines, and the lines piece by piece."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

from markupsafe import escape

from ci.history.timeline import Stay
from ci.models import Build, BuildState, Target, derivation_name
from ci.serve.html import visible
from ci.serve.pages.log_file import MOST_LINES, Part, ends
from ci.serve.pages.log_sheet import OTHERS, SERVER, Sheet

PIECE = 256 * 1024
"""Characters of HTML that are sent at once."""
MOST_LINKS = 20

_DEPENDENCY = re.compile(r"dependency (\S+) failed")


@dataclass(frozen=True)
class Shown:
    """What of a build's log is shown: all of an attempt, a target's, a range of lines.

    `marked`: lines say which derivation wrote them. `path` is the page without query;
    `asked` what the reader chose himself of attempt, target and lines.
    """

    build: Build
    attempt: int
    part: Part | None
    target: Target | None
    stays: tuple[Stay, ...]
    path: str
    asked: dict[str, str]
    marked: bool

    @property
    def bad(self) -> frozenset[str]:
        """Names of the derivations that failed in this attempt."""
        return frozenset(stay.name for stay in self.stays if stay.failed) | _blamed(
            self.build if self.attempt == self.build.attempt else None
        )

    @property
    def running(self) -> bool:
        """Whether more lines may come."""
        return (
            self.build.state is BuildState.RUNNING
            and self.attempt == self.build.attempt
        )

    @property
    def flat(self) -> bool:
        """Whether one writer wrote all of it, so that there is nothing to fold."""
        return self.target is not None or not self.marked

    @property
    def ranged(self) -> bool:
        return "from" in self.asked or "to" in self.asked

    def url(self, suffix: str = "", **changes: str | int | None) -> str:
        """The page with another choice; None leaves one out."""
        chosen = {**self.asked, **{key.rstrip("_"): it for key, it in changes.items()}}
        query = urlencode({key: it for key, it in chosen.items() if it is not None})
        return self.path + suffix + ("?" + query if query else "")

    @property
    def raw(self) -> str:
        """The whole log, or that of the target, as it was written."""
        return self.url(".txt", from_=None, to=None, q=None)


def body(shown: Shown) -> Iterator[bytes]:
    """The lines, in pieces; the first takes as long as all of them together.

    Blocks. Raises OSError when the log goes away meanwhile.
    """
    gathered: list[str] = []
    size = 0
    for text in _sections(shown):
        gathered.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(gathered).encode(errors="replace")
            gathered, size = [], 0
    yield "".join(gathered).encode(errors="replace")


def _sections(shown: Shown) -> Iterator[str]:
    """The head and, where they do not fit together, a gap and the tail."""
    head = Sheet(shown.raw, marked=shown.marked)
    tail = Sheet(shown.raw, marked=shown.marked)
    before, after = 0, 0
    for is_head, lines in ends(shown.part) if shown.part else ():
        if is_head:
            head.add(lines)
            before = lines.numbers[-1]
        else:
            after = after or lines.numbers[0]
            tail.add(lines)
    if not before:
        yield from _nothing(shown)
        return
    yield from _folds(shown, head)
    if after:
        yield from _gap(shown, before + 1, after - 1)
        yield from _folds(shown, tail)


def _folds(shown: Shown, sheet: Sheet) -> Iterator[str]:
    if shown.flat:
        yield from sheet.flat()
        return
    opened: set[str] | None = None
    if not shown.ranged and len(sheet.groups) > 1:
        opened = set(shown.bad)
        if shown.running:
            opened |= {stay.name for stay in shown.stays if stay.stopped_at is None}
        if not opened & sheet.groups.keys():
            opened = {SERVER, OTHERS}
    yield from sheet.html(shown.bad, opened)


def _gap(shown: Shown, first: int, last: int) -> Iterator[str]:
    """Links to the lines that are not here, so many that each leads to a whole page."""
    if last < first:
        return
    step = max(MOST_LINES, math.ceil((last - first + 1) / MOST_LINKS))
    yield f'<p class="gap" data-first="{first}" data-last="{last}">Left out here:'
    for start in range(first, last + 1, step):
        end = min(start + step - 1, last)
        url = escape(shown.url(from_=start, to=end, q=None))
        yield f' <a href="{url}">lines {start:,}–{end:,}</a>'
    yield "</p>"


def _nothing(shown: Shown) -> Iterator[str]:
    """Why there is no line to see."""
    target, state = shown.target, shown.build.state
    if target is not None and target.error and not shown.ranged:
        yield '<p class="muted">It wrote nothing. Its error:</p><div class="group">'
        for line in target.error.splitlines():
            yield f"<p>{escape(visible(line))}</p>"
        yield "</div>"
        return
    if shown.ranged:
        why = "The log has no such lines."
    elif state is BuildState.QUEUED and not shown.part:
        why = "waiting for the build to start…"
    elif shown.running:
        why = "nothing yet…"
    else:
        why = "Nothing was written."
    yield f'<p class="muted" data-empty>{why}</p>'


def _blamed(build: Build | None) -> frozenset[str]:
    """Derivations that targets name as the reason of their failure."""
    names = set()
    for target in build.targets if build else ():
        if target.state in (BuildState.FAILED, BuildState.ERROR):
            found = _DEPENDENCY.search(target.error or "")
            if found:
                names.add(found[1])
            elif target.derivation:
                names.add(derivation_name(target.derivation))
    return frozenset(names)
