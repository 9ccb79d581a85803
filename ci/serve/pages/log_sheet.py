"""Lines of a log as HTML: numbered, by derivation and phase, in chunks.

A browser lays out and paints only the chunks that it shows; a hundred thousand lines
stay one document that can be searched, selected and printed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from markupsafe import escape

from ci.serve.pages.ansi import LONGEST, PLAIN, Painter, one_colour
from ci.serve.pages.log_file import Lines

CHUNK = 100
MOST_GROUPS = 5_000
SERVER = "build-server:"
"""The group of the server's own lines; no derivation can have this name."""
OTHERS = ""
"""The group of what is marked with no name: programs that the server ran itself."""
TITLES = {SERVER: "build-server", OTHERS: "git and nix"}

_SERVERS = "build-server: "
_PHASE = "Running phase: "
# What the store allows in a name.
_NAME = re.compile(r"([0-9A-Za-z+\-._?=]{1,211})> ")
_END = "> "
# Begins no line.
_NEVER = "\n"


class Group:
    """The lines of one writer, in order. `prefix` marks them in the log only."""

    def __init__(self, name: str, prefix: str, raw: str) -> None:
        self.name = name
        self.prefix = prefix
        # How much of each line is the mark.
        self.skip = 0 if prefix == _NEVER else len(prefix)
        self.numbers: list[int] = []
        self.lines: list[str] = []
        self._painter = Painter(raw)

    @property
    def title(self) -> str:
        """What a reader calls it, as HTML."""
        return escape(TITLES.get(self.name, self.name))

    def html(self) -> Iterator[str]:
        """All of it, in well-formed chunks; a phase that begins is a fold."""
        at, in_phase = 0, False
        while at < len(self.lines):
            end = self._end(at)
            if end > at:
                full = ' class="chunk"' if end - at == CHUNK else ""
                lines = "".join(self._painted(at, end))
                yield f"<div{full}>{lines}</div>"
                at = end
                continue
            body = self._painter.line(self.lines[at])
            yield "</details>" if in_phase else ""
            yield f'<details class="phase" open><summary id=L{self.numbers[at]}>'
            yield f"{body}</summary>"
            in_phase = True
            at += 1
        if in_phase:
            yield "</details>"

    def taken(self) -> str:
        """What has come since the last time; a script makes folds and chunks of it."""
        done: list[str] = []
        at = 0
        while at < len(self.lines):
            end = self._end(at)
            if end > at:
                done += self._painted(at, end)
            else:
                body = self._painter.line(self.lines[at])
                done.append(f"<p id=L{self.numbers[at]} data-phase>{body}</p>")
                end = at + 1
            at = end
        self.numbers, self.lines = [], []
        return "".join(done)

    def _end(self, at: int) -> int:
        """Where the chunk that begins there ends: at a phase, and there at once."""
        lines = self.lines[at : at + CHUNK]
        if self.skip and _PHASE in "\n".join(lines):
            for index, line in enumerate(lines):
                if line.startswith(_PHASE):
                    return at + index
        return at + len(lines)

    def _painted(self, at: int, end: int) -> list[str]:
        """Most chunks hold nothing that a browser could not be given as it is."""
        lines = self.lines[at:end]
        painter, whole = self._painter, "\n".join(lines)
        clean = "://" not in whole and len(max(lines, key=len)) <= LONGEST
        bodies = _escaped(whole).split("\n")
        if not (clean and painter.style is PLAIN and _is_plain(whole)):
            bodies = [
                body
                if (quick := clean and painter.style is PLAIN) and body.isprintable()
                else (quick and one_colour(body)) or painter.line(line)
                for line, body in zip(lines, bodies, strict=True)
            ]
        return [
            f"<p id=L{number}>{body}</p>"
            for number, body in zip(self.numbers[at:end], bodies, strict=True)
        ]


def _is_plain(text: str) -> bool:
    return text.replace("\n", "").replace("\t", "").isprintable()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Sheet:
    """Lines by their writers, in order of first appearance.

    `marked`: each line says who wrote it (a Nix build), else all are one writer's.
    `raw` is the address of the log as it is.
    """

    def __init__(self, raw: str, *, marked: bool) -> None:
        self.groups: dict[str, Group] = {}
        self._raw = raw
        self._marked = marked

    def add(self, lines: Lines) -> None:
        """More lines."""
        found = lines.data.decode("utf-8", "replace").split("\n")
        if not self._marked:
            group = self._group(OTHERS, _NEVER)
            group.numbers += lines.numbers
            group.lines += found
            return
        # Bound once for all lines of a writer: there may be a hundred thousand.
        puts: dict[str, tuple[Callable[[int], None], Callable[[str], None]]] = {}
        for number, line in zip(lines.numbers, found, strict=True):
            name, mark, text = line.partition(_END)
            put = puts.get(name) if mark else None
            if put is None:
                group = self._writer(line)
                put = group.numbers.append, group.lines.append
                if group.prefix == name + _END:
                    puts[name] = put
                else:
                    text = line[group.skip :]
            put[0](number)
            put[1](text)

    def html(
        self, bad: Collection[str], opened: Collection[str] | None
    ) -> Iterator[str]:
        """A fold for each writer; `bad` ones are marked, of `opened` None means all."""
        for group in self.groups.values():
            mark = '<summary data-error><span class="is-failed">✗ failed</span> '
            count = len(group.lines)
            yield (
                f'<details class="group" data-group="{escape(group.name)}"'
                f"{' open' if opened is None or group.name in opened else ''}>"
                f"{mark if group.name in bad else '<summary>'}<b>{group.title}</b> "
                f'<span class="muted">{count:,} line{"s" * (count != 1)}</span>'
                "</summary>"
            )
            yield from group.html()
            yield "</details>"

    def flat(self) -> Iterator[str]:
        """Without folds: for one writer."""
        for group in self.groups.values():
            yield f'<div class="group" data-group="{escape(group.name)}">'
            yield from group.html()
            yield "</div>"

    def news(self) -> str:
        """What has come since the last time, each writer's lines in a block."""
        return "".join(
            f'<div data-group="{escape(group.name)}" '
            f'data-title="{group.title}">{group.taken()}</div>'
            for group in self.groups.values()
            if group.lines
        )

    def _writer(self, line: str) -> Group:
        if line.startswith(_SERVERS):
            return self._group(SERVER, _SERVERS)
        found = _NAME.match(line)
        if found and (found[1] in self.groups or len(self.groups) < MOST_GROUPS):
            return self._group(found[1], found[0])
        return self._group(OTHERS, _NEVER)

    def _group(self, name: str, prefix: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = Group(name, prefix, self._raw)
            self.groups[name] = group
        return group
