"""What a terminal is told, as HTML: harmless whatever it is, and nothing seen is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from ci.serve.html import visible
from ci.serve.pages.ansi import LONGEST, PLAIN, Painter, one_colour, seen, stripped
from tests.serve.html_tree import Element, parse

ESC = "\x1b"
REL = "nofollow noopener noreferrer"
LINKED = f'<a href="https://a.b/?c&amp;d" rel="{REL}">'
CLASSES = re.compile(r"[bdiuv]|[fg]([0-9]|1[0-5])")

# Pieces of a line: (what is written, what of it is seen).
Piece = tuple[str, str]


def _same(text: str) -> Piece:
    return (text, text)


texts = st.text(
    st.characters(exclude_characters="\n\r\x1b", exclude_categories=["Cs"]), max_size=20
)
colours = st.lists(
    st.integers(0, 120) | st.sampled_from([38, 48, 5, 2, 99999]), max_size=6
).map(lambda codes: (f"{ESC}[{';'.join(map(str, codes))}m", ""))
others = st.sampled_from(
    [
        *("[2K", "[1;1H", "[?25l", "[>4;1m", "[38:2::1:2:3m", "(B", "7"),
        *("]0;title\x07", f"]0;title{ESC}\\", f"Pq{ESC}\\", "]8;;\x07"),
        *("]8;;https://a.b/\x07", ']8;;https://"><script>\x07'),
        f"]8;id=1;javascript:alert(1){ESC}\\",
    ]
).map(lambda escape: (ESC + escape, ""))
links = st.sampled_from(
    ["https://a.b/c?d=e&f=g", "http://x", "javascript:x", "see http://a.b/(c)."]
).map(_same)
hostile = st.sampled_from(
    [
        "<script>",
        "</p>",
        "&lt;",
        '"',
        "'",
        "\u202e",
        "\0",
        "\x9b31m",
        "👩\u200d🚀",
        "<!--",
    ]
).map(_same)
pieces = st.lists(texts.map(_same) | colours | others | links | hostile, max_size=12)


def harmless(html: str) -> Element:
    """The tree of painted lines; AssertionError when it has anything else than ours."""
    tree = parse(html)
    for element in tree.all():
        if element.tag == "span":
            names = (element.attributes.pop("class") or "").split()
            assert all(map(CLASSES.fullmatch, names)), names
            assert names, "a span for nothing"
        else:
            assert element.tag == "a", element.tag
            assert not list(element.all("a")), "a link in a link"
            assert element.attributes.pop("rel") == REL
            assert re.match("https?://", element.attributes.pop("href") or "")
        assert element.attributes == {}
    assert tree.text.replace("\t", "").replace("\u200d", "").isprintable()
    return tree


@given(colour=colours, text=texts | hostile.map(lambda it: it[0]), end=colours)
def test_the_quick_way_paints_the_same(colour: Piece, text: str, end: Piece) -> None:
    for reset in (f"{ESC}[0m", f"{ESC}[m", end[0], ""):
        line = colour[0] + text + reset
        quick = one_colour(
            line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        )
        painter = Painter()
        if quick is not None:
            assert quick == painter.line(line)
            assert painter.style == PLAIN
    assert one_colour(f"{ESC}[1;31mred{ESC}[0m") == '<span class="b f1">red</span>'


@given(lines=st.lists(pieces, max_size=4))
def test_what_is_seen_is_what_was_printed(lines: list[list[Piece]]) -> None:
    painter = Painter()
    for line in lines:
        tree = harmless(painter.line("".join(written for written, _ in line)))
        shown = "".join(text for _, text in line)
        assert tree.text == "\t".join(visible(part) for part in shown.split("\t"))


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode("utf-8")))
def test_whatever_bytes_come_are_harmless(data: bytes) -> None:
    painter = Painter()
    for line in data.decode("utf-8", "replace").split("\n"):
        tree = harmless(painter.line(line))
        if "\r" not in line:
            assert tree.text == seen(stripped(line))


@given(writings=st.lists(pieces, min_size=1, max_size=4))
def test_of_a_line_that_is_written_over_the_last_writing_is_seen(
    writings: list[list[Piece]],
) -> None:
    line = "\r".join("".join(text for text, _ in pieces) for pieces in writings)
    seen_texts = ["".join(text for _, text in pieces) for pieces in writings]
    last = next((text for text in reversed(seen_texts) if text), "")
    assert harmless(Painter().line(line)).text == seen(last)


@pytest.mark.parametrize(
    ("line", "html"),
    [
        ("␛[1;31mbad␛[0m ok", '<span class="b f1">bad</span> ok'),
        ("␛[91;44mx␛[39my", '<span class="f9 g4">x</span><span class="g4">y</span>'),
        ("␛[2;3;4mx", '<span class="d i u">x</span>'),
        ("␛[4mx␛[4:0my", '<span class="u">x</span>y'),
        ("␛[7mx", '<span class="v">x</span>'),
        ("␛[7;31mx", '<span class="g1">x</span>'),
        ("␛[7;41mx", '<span class="f1 g7">x</span>'),
        ("␛[38;5;196mx", '<span class="f9">x</span>'),
        ("␛[38;5;244mx", '<span class="f8">x</span>'),
        ("␛[38;2;0;250;3;1mx", '<span class="b f10">x</span>'),
        ("␛[38:2::0:250:3mx", '<span class="f10">x</span>'),
        ("␛[48;5;4mx", '<span class="g4">x</span>'),
        ("␛[38;5mx", '<span class="f0">x</span>'),
        ("␛[31mx␛[mx", '<span class="f1">x</span>x'),
        ("␛]8;;https://a.b/?c&d␇x␛]8;;␇y", f"{LINKED}x</a>y"),
        ("␛]8;;javascript:c␇x␛]8;;␇y", "xy"),
        ("never ended ␛]0;title", "never ended 0;title"),
    ],
)
def test_colours_and_links(line: str, html: str) -> None:
    written = line.replace("␛", ESC).replace("␇", "\a")
    assert Painter().line(written) == html


def test_a_colour_lasts_over_lines_also_those_that_are_not_seen() -> None:
    painter = Painter("/raw")
    assert painter.line(f"{ESC}[31mone") == '<span class="f1">one</span>'
    assert painter.line("two") == '<span class="f1">two</span>'
    assert painter.line(f"{ESC}[32mover\rshown") == '<span class="f2">shown</span>'
    painter.line("x" * LONGEST + f"{ESC}[0m")
    assert painter.style is PLAIN


def test_a_sentence_ends_behind_its_link() -> None:
    tree = parse(Painter().line("(see https://a.b/c_(d), https://e.f/g)."))
    assert [link.text for link in tree.all("a")] == [
        "https://a.b/c_(d)",
        "https://e.f/g",
    ]
    assert tree.text == "(see https://a.b/c_(d), https://e.f/g)."


def test_a_long_line_is_cut_and_says_where_it_goes_on() -> None:
    tree = parse(Painter("/builds/1/log.txt?a=1&b=2").line("<" * 1_000_000))
    (link,) = tree.all("a", class_="cut")
    assert link.attributes["href"] == "/builds/1/log.txt?a=1&b=2"
    assert tree.text == "<" * LONGEST + link.text


def _hard(count: int) -> Iterator[str]:
    """Lines that make a careless pattern take forever."""
    for piece in ("\x1b]", "\x1b[", "\x1bP", "\x1b[1;", "http://", "\r", "\x1b]8;;"):
        yield piece * count
        yield piece + "1" * count


def test_no_line_takes_forever() -> None:
    for line in _hard(100_000):
        harmless(Painter().line(line).partition('<a class="cut"')[0])
