"""Text from outside, made safe for a terminal; widths; durations as people write them.

Titles, branch names, errors and log lines are written by whoever pushes a commit: none
of them may move the cursor, change a colour for good or forge a line.
"""

from __future__ import annotations

import re
from datetime import datetime

# Patterns are compiled when first used: most runs need none of them.
# Colours, with gcc's erase-to-end-of-line and tput's charset reset, which go with them.
_HARMLESS = r"\x1b\[(?P<sgr>[0-9;:]{0,64})m|\x1b\[[0-2]?K|\x1b\(B"
_ANY_SEQUENCE = r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|\([0-9A-Z])"
_RESET = "\x1b[0m"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def printable(text: str) -> str:
    r"""One line: whatever is not printable is written as an escape (`\n`, `\x1b`)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def plain_lines(text: str) -> list[str]:
    """The lines of an error message, without colours and without empty ones."""
    lines = re.sub(_ANY_SEQUENCE, "", text).replace("\t", "    ").splitlines()
    return [printable(line).rstrip() for line in lines if line.strip()]


def one_line(text: str) -> str:
    """The same as one line with single spaces."""
    return " ".join(" ".join(plain_lines(text)).split())


def wrap(text: str, columns: int, rows: int | None = None) -> list[str]:
    """Broken between words into at most so many rows; what was left out is `…`."""
    found: list[str] = []
    for word in text.split():
        if found and width(found[-1]) + 1 + width(word) <= columns:
            found[-1] += f" {word}"
        else:
            found.append(word)
    if rows is not None and len(found) > rows:
        rest = " ".join(found[rows - 1 :])
        found = [*found[: rows - 1], rest]
        return [cut(row, columns) for row in found]
    return found


def log_line(line: str, *, colour: bool) -> str:
    """A log line with its colours, if wanted, reset at its end; nothing else passes.

    Other control characters are shown as `cat -v` shows them: `^[`, `^M`.
    """
    line = line.removesuffix("\r")
    if line.isprintable():
        return line
    parts: list[str] = []
    end, coloured = 0, False
    for found in re.finditer(_HARMLESS, line):
        parts.append(_visible(line[end : found.start()]))
        end = found.end()
        if colour and found["sgr"] is not None:
            parts.append(found[0])
            coloured = True
    parts.append(_visible(line[end:]))
    return "".join(parts) + (_RESET if coloured else "")


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else _caret(char) for char in text
    )


def _caret(char: str) -> str:
    if char < " " or char == "\x7f":
        return "^" + chr(ord(char) ^ 0x40)
    return _escape(char)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def width(text: str) -> int:
    """Columns that printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """At most `columns` wide; what was cut off is an ellipsis."""
    if width(text) <= columns:
        return text
    left, kept = max(columns, 1) - 1, ""
    for char in text:
        left -= _columns(char)
        if left < 0:
            break
        kept += char
    return kept.rstrip() + "…"


def pad(text: str, columns: int) -> str:
    """Cut or filled up with spaces to exactly `columns`."""
    text = cut(text, columns)
    return text + " " * (columns - width(text))


def _columns(char: str) -> int:
    if char.isascii():
        return 1
    import unicodedata

    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def human_seconds(seconds: float) -> str:
    """Two units at most: `8s`, `3m 12s`, `1h 4m`, `2d 3h`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def took(seconds: float) -> str:
    """The same of what has ended; also `0.3s`, as on the pages."""
    if 0.05 <= seconds < 0.95:
        return f"{seconds:.1f}s"
    return human_seconds(seconds)


def age(seconds: float) -> str:
    """The larger unit only: `8s`, `6m`, `2h`, `40d`."""
    return human_seconds(seconds).partition(" ")[0]


def timestamp(moment: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for anything else."""
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


def duration(text: str) -> float | None:
    """Seconds of `90m`, `2d`, `1w`; None for anything else."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    return int(found[1]) * _UNITS[found[2]] if found else None
