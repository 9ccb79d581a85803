"""`bl` shows any bytes, however they come, without letting one of them act."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given, settings, strategies as st

from ci.client.printers import Lines, Raw, coloured
from ci.client.terminal import Side
from tests.client.test_text import NASTY

COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# C0 and C1 but newline and tab, and what turns the direction of text around.
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

logs = st.lists(
    st.binary(max_size=40)
    | NASTY.map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.sampled_from(
        [b"\n", b"\r\n", b"\xe2\x80", b"\xae", b"\xc2", b"\x9b2J", b"\x1b[2A"]
    ),
    max_size=20,
).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=8)


def shown(pieces: Sequence[bytes], *, colour: bool | None, last: int | None) -> bytes:
    """What a program writes that is given these pieces; without `colour` the bytes."""
    file = os.memfd_create("shown")
    try:
        side = Side(file, {}, "never")
        printer: Raw | Lines = (
            Raw(side, last=last)
            if colour is None
            else Lines(side, coloured(colour), last=last)
        )
        for piece in pieces:
            printer.write(piece)
        printer.end()
        return os.pread(file, 1 << 22, 0)
    finally:
        os.close(file)


@settings(max_examples=300, deadline=None)
@given(logs, cuts, st.booleans(), st.none() | st.integers(1, 5))
def test_no_byte_of_a_log_rules_the_terminal(
    log: bytes, sizes: list[int], colour: bool, last: int | None
) -> None:
    bounds = [0, *sorted(min(size, len(log)) for size in sizes), len(log)]
    pieces = [log[a:b] for a, b in pairwise(bounds)]
    written = shown(pieces, colour=colour, last=last)
    assert written == shown([log], colour=colour, last=last)

    text = written.decode()
    plain = COLOUR.sub("", text) if colour else text
    assert not ACTS.search(plain)
    assert all(
        unicodedata.category(char) not in ("Cf", "Cs", "Zl", "Zp") for char in plain
    )
    for line in text.split("\n"):
        if COLOUR.search(line):
            assert line.endswith("\x1b[0m")

    lines = re.findall(rb"[^\n]*\n|[^\n]+\Z", log)[-(last or len(log) + 1) :]
    assert text.count("\n") == len(lines)
    assert shown(pieces, colour=None, last=last) == b"".join(lines)
