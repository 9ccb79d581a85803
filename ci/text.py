"""Text from outside, made safe to print on a terminal, in a log or in an error."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` with every character that is not printable written as an escape.

    Line breaks, terminal escapes, bidirectional controls and lone surrogates come out
    as `\n`, `\x1b`, `\u202e`, …: a branch name can neither forge a line nor move the
    cursor.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def quoted(value: object, limit: int = 60) -> str:
    """A value of a TOML document for an error message: escaped and shortened.

    Lists and tables are only named: what they hold may not be for printing.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = printable(str(value))
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return f'"{text}"' if isinstance(value, str) else text
