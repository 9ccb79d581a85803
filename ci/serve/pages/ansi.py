r"""What a program writes for a terminal, as HTML: colours as classes, links, nothing else.

A log is whatever a builder likes to print. Of its escapes the colours (SGR) and links to
http and https (OSC 8) have a meaning here, all others are dropped; a character that
cannot be seen comes out as an escape (`\x07`, `\u202e`); of a line that was written over
(`\r`) the last writing is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from markupsafe import escape

from ci.serve.html import visible

# A longer line is cut here: nobody reads it in a browser.
LONGEST = 4000
LINK = 'rel="nofollow noopener noreferrer"'

# None of them goes past the end of a line, and none is longer than its terminator says:
# what is never terminated loses its first two characters and is shown.
_ESCAPE = re.compile(
    r"\x1b(?:"
    r"\[([0-?]*)([ -/]*[@-~])"
    r"|\]8;[^;\x07\x1b\n]*;([^\x07\x1b\n]*)(?:\x07|\x1b\\)"
    r"|\][^\x07\x1b\n]*(?:\x07|\x1b\\)"
    r"|[PX^_][^\x1b\n]*\x1b\\"
    r"|[ -/]*[0-~]?"
    r")"
)
# What most coloured lines are: one colour from end to end.
_ONE_COLOUR = re.compile(r"\x1b\[([0-9;:]*)m([^\x1b]+)\x1b\[0?m")
_URL = re.compile(r"https?://[\w\-.~:/?#\[\]@!$&'()*+,;=%]+", re.ASCII)
_NUMBERS = re.compile(r"[0-9:;]{0,200}", re.ASCII)
_BOLD, _DIM, _ITALIC, _UNDERLINE, _INVERSE = 1, 2, 4, 8, 16
_LETTERS = ((_BOLD, "b"), (_DIM, "d"), (_ITALIC, "i"), (_UNDERLINE, "u"))
_ON = {1: _BOLD, 2: _DIM, 3: _ITALIC, 4: _UNDERLINE, 7: _INVERSE}
_OFF = {22: _BOLD | _DIM, 23: _ITALIC, 24: _UNDERLINE, 27: _INVERSE}
# The sixteen as xterm shows them: what all others are measured against.
_PALETTE = (
    *((0, 0, 0), (205, 0, 0), (0, 205, 0), (205, 205, 0)),
    *((0, 0, 238), (205, 0, 205), (0, 205, 205), (229, 229, 229)),
    *((127, 127, 127), (255, 0, 0), (0, 255, 0), (255, 255, 0)),
    *((92, 92, 255), (255, 0, 255), (0, 255, 255), (255, 255, 255)),
)
_CUBE = (0, 95, 135, 175, 215, 255)


class Style(NamedTuple):
    """How text looks: two of sixteen colours, None for the page's own, and flags."""

    front: int | None = None
    back: int | None = None
    flags: int = 0


PLAIN = Style()


class Painter:
    """Lines of one writer, in order: a colour lasts until that writer changes it.

    `raw` is the address that a line which was cut links to.
    """

    def __init__(self, raw: str = "") -> None:
        self.style = PLAIN
        self._more = f'<a class="cut" href="{escape(raw)}">… goes on in the raw log</a>'

    def line(self, text: str) -> str:
        """One line without its newline, as HTML; whatever it opens it closes."""
        text = self._last_writing(text) if "\r" in text else text
        if len(text) <= LONGEST:
            return self._paint(text)
        painted = self._paint(text[:LONGEST])
        self.skip(text[LONGEST:])
        return painted + self._more

    def skip(self, text: str) -> None:
        """Text that is not shown: only its colours count."""
        for found in _ESCAPE.finditer(text):
            if found[2] == "m":
                self.style = _after(self.style, found[1])

    def _paint(self, text: str) -> str:
        done: list[str] = []
        at, linked = 0, False
        for found in _ESCAPE.finditer(text):
            start = found.start()
            if start > at:
                self._put(done, text[at:start], linked)
            at = found.end()
            parameters, final, link = found.groups()
            if final == "m":
                self.style = _after(self.style, parameters)
            elif link is not None:
                done.append("</a>" if linked else "")
                linked = _URL.fullmatch(link) is not None
                done.append(f'<a href="{escape(link)}" {LINK}>' if linked else "")
        self._put(done, text[at:], linked)
        done.append("</a>" if linked else "")
        return "".join(done)

    def _put(self, done: list[str], text: str, linked: bool) -> None:
        if not text:
            return
        body = _escaped(seen(text)) if linked else _with_links(seen(text))
        names = _classes(self.style)
        done.append(f'<span class="{names}">{body}</span>' if names else body)

    def _last_writing(self, text: str) -> str:
        shown, after = "", ""
        for part in text.split("\r"):
            if _ESCAPE.sub("", part):
                self.skip(shown)
                self.skip(after)
                shown, after = part, ""
            else:
                after += part
        return shown + after


def seen(text: str) -> str:
    """What cannot be seen as escapes, but for the tab."""
    return text if text.isprintable() else "\t".join(map(visible, text.split("\t")))


def one_colour(escaped: str) -> str | None:
    """The quick way for a line without addresses where no colour lasts from before.

    `escaped` is the line, escaped for HTML. None: a Painter has to look at it. No colour
    lasts after it, either.
    """
    found = _ONE_COLOUR.fullmatch(escaped)
    if found is None or not found[2].isprintable():
        return None
    names = _classes(_after(PLAIN, found[1]))
    return f'<span class="{names}">{found[2]}</span>' if names else found[2]


def stripped(text: str) -> str:
    """`text`, of one line or many, without its escapes."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _with_links(text: str) -> str:
    return "".join(_linked(text)) if "://" in text else _escaped(text)


def _linked(text: str) -> Iterator[str]:
    """The text with addresses as links; a sentence's own full stop is no part of one."""
    at = 0
    for found in _URL.finditer(text):
        url = found[0].rstrip(".,;:!?'")
        if url.endswith(")") and "(" not in url:
            url = url[:-1]
        yield _escaped(text[at : found.start()])
        yield f'<a href="{escape(url)}" {LINK}>{_escaped(url)}</a>'
        at = found.start() + len(url)
    yield _escaped(text[at:])


@lru_cache(1024)
def _classes(style: Style) -> str:
    """`f1 b` for bold red. Colours that are exchanged stay readable on either theme."""
    front, back = style.front, style.back
    names = [letter for flag, letter in _LETTERS if style.flags & flag]
    if style.flags & _INVERSE:
        if front is None and back is None:
            names.append("v")
        else:
            front, back = back, 7 if front is None else front
    if front is not None:
        names.append(f"f{front}")
    if back is not None:
        names.append(f"g{back}")
    return " ".join(names)


@lru_cache(4096)
def _after(style: Style, parameters: str) -> Style:
    """The style after `ESC [ parameters m`; what is not known changes nothing."""
    if not _NUMBERS.fullmatch(parameters):
        return style
    codes = iter(parameters.split(";"))
    for code in codes:
        head, *rest = code.split(":")
        number = _number(head)
        if number in (38, 48):
            # With colons a colour space may stand before the three, mostly empty.
            parts = iter([*rest[:1], *rest[1:][-3:]]) if rest else codes
            colour = _extended(parts)
            if colour is not None:
                style = _coloured(style, number, colour)
        elif number == 4 and rest[:1] == ["0"]:
            style = style._replace(flags=style.flags & ~_UNDERLINE)
        else:
            style = _simple(style, number)
    # One object for what most lines have: it is asked for with `is`.
    return PLAIN if style == PLAIN else style


def _simple(style: Style, number: int) -> Style:
    if number == 0:
        return PLAIN
    if number in _ON:
        return style._replace(flags=style.flags | _ON[number])
    if number in _OFF:
        return style._replace(flags=style.flags & ~_OFF[number])
    if number == 39:
        return style._replace(front=None)
    if number == 49:
        return style._replace(back=None)
    for first, colour in ((30, 0), (40, 0), (90, 8), (100, 8)):
        if first <= number < first + 8:
            place = 38 if first in (30, 90) else 48
            return _coloured(style, place, number - first + colour)
    return style


def _coloured(style: Style, place: int, colour: int) -> Style:
    return style._replace(front=colour) if place == 38 else style._replace(back=colour)


def _extended(codes: Iterator[str]) -> int | None:
    """The nearest of sixteen for `5;n` and `2;r;g;b`; takes what belongs to it."""
    match next(codes, ""):
        case "5":
            return _of_256(_number(next(codes, "")))
        case "2":
            numbers = [_number(next(codes, "")) for _ in range(3)]
            red, green, blue = (max(0, min(255, value)) for value in numbers)
            return _nearest(red, green, blue)
    return None


def _of_256(number: int) -> int | None:
    if 0 <= number < 16:
        return number
    if 16 <= number < 232:
        cell = number - 16
        return _nearest(_CUBE[cell // 36], _CUBE[cell // 6 % 6], _CUBE[cell % 6])
    if 232 <= number < 256:
        grey = 8 + 10 * (number - 232)
        return _nearest(grey, grey, grey)
    return None


@lru_cache(1024)
def _nearest(red: int, green: int, blue: int) -> int:
    def distance(index: int) -> int:
        pairs = zip(_PALETTE[index], (red, green, blue), strict=True)
        return sum((ours - theirs) ** 2 for ours, theirs in pairs)

    return min(range(16), key=distance)


def _number(code: str) -> int:
    """0 for an empty code, as terminals read it; -1 for one that is none."""
    if not code:
        return 0
    return int(code) if len(code) <= 4 and code.isdecimal() else -1
