"""No text, whatever is in it, rules the terminal or is wider than it."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata

import pytest
from hypothesis import given, strategies as st

from ci import models
from ci.client import as_json, text
from ci.client.terminal import wants_colour
from ci.client.words import quoted

ANYTHING = st.text(st.characters(codec=None), max_size=80)
PIECES = (
    *("\x1b[31m", "\x1b[0m", "\x1b[K", "\x1b]8;;x\x07", "\x1b", "\x9b", "\r"),
    *("\u202e", "\x00", "é", "日本", "👩\u200d👧", "e\u0301", "\t", "\x1b[999999C"),
)
NASTY = st.lists(st.one_of(st.sampled_from(PIECES), ANYTHING), max_size=12).map("".join)


@given(NASTY)
def test_printable_is_one_line_that_moves_nothing(given_text: str) -> None:
    assert text.printable(given_text).isprintable()
    assert all(line.isprintable() for line in text.plain_lines(given_text))
    assert text.one_line(given_text).isprintable()


@given(NASTY)
def test_log_lines_have_colours_and_nothing_else(line: str) -> None:
    shown = text.log_line(line, colour=True)
    rest = re.sub(r"\x1b\[[0-9;:]*m", "", shown)
    assert rest.replace("\t", "").isprintable()
    assert rest == text.log_line(line, colour=False)
    if rest != shown:
        assert shown.endswith("\x1b[0m")


@given(NASTY.map(text.printable), st.integers(1, 60))
def test_cut_and_pad_fit(line: str, columns: int) -> None:
    short = text.cut(line, columns)
    assert text.width(short) <= columns
    assert short == line or short.endswith("…")
    assert text.width(text.pad(line, columns)) == columns


@given(st.text("ab \u65e5", max_size=120), st.integers(6, 40), st.integers(1, 4))
def test_wrapped_rows_lose_no_word(line: str, columns: int, rows: int) -> None:
    whole = text.wrap(line, columns)
    assert " ".join(whole).split() == line.split()
    fitting = [row for row in whole if " " in row]
    assert all(text.width(row) <= columns for row in fitting)
    few = text.wrap(line, columns, rows)
    assert len(few) == min(len(whole), rows)
    assert few == whole or few[-1].endswith("…") or text.width(few[-1]) <= columns


@given(ANYTHING)
def test_width_is_that_of_the_characters(line: str) -> None:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in line)
    marks = sum(unicodedata.combining(char) != 0 for char in line)
    assert len(line) - marks <= text.width(line) <= len(line) + wide


@given(st.dictionaries(ANYTHING, ANYTHING, max_size=3))
def test_json_is_the_same_and_safe(value: dict[str, str]) -> None:
    shown = as_json.dump(value, pretty=False)
    assert shown.isprintable()
    # The halves of a surrogate pair, one after the other, are one character in JSON.
    assert json.loads(shown) == json.loads(json.dumps(value))


@given(st.text(st.characters(codec="ascii", exclude_characters="\x00"), max_size=30))
def test_quoted_for_the_shell(argument: str) -> None:
    assert shlex.split(quoted(argument) or "''") == [text.printable(argument)] or (
        argument == ""
    )


@pytest.mark.parametrize(
    ("choice", "environ", "tty", "wanted"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"CLICOLOR_FORCE": "1", "TERM": "dumb"}, False, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour(choice: str, environ: dict[str, str], tty: bool, wanted: bool) -> None:
    assert wants_colour(choice, environ, tty) is wanted


@pytest.mark.parametrize(
    ("seconds", "shown", "age"),
    [
        (0, "0s", "0s"),
        (59.9, "59s", "59s"),
        (192, "3m 12s", "3m"),
        (3840, "1h 4m", "1h"),
        (183600, "2d 3h", "2d"),
        (-5, "0s", "0s"),
    ],
)
def test_durations(seconds: float, shown: str, age: str) -> None:
    assert (text.human_seconds(seconds), text.age(seconds)) == (shown, age)


@pytest.mark.parametrize("seconds", [0, 0.04, 0.06, 0.3, 0.94, 0.96, 1.4, 9.9, 192])
def test_what_has_ended_took_as_long_as_on_the_pages(seconds: float) -> None:
    assert text.took(seconds) == models.human_seconds(seconds)
