"""Standard error of Nix, however it is cut into chunks."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, strategies as st

from ci.adapters.nix_eval.faults import Places
from ci.adapters.nix_eval.stream import Stderr
from ci.errors import CommitFault

MARK = "0123456789abcdef"
WRITTEN = b"""\
remote: Counting objects:  33% (1/3)\r\
trace: 0123456789abcdef{"stage":"flake","tree":"/nix/store/x-source"}
From file:///srv/mirror
 * branch            c0ffee -> FETCH_HEAD
GC Warning: Failed to expand heap by 8388608 bytes
trace: the flake's own\x1b[1m words
trace: 0123456789abcdef{"path":["packages","x86_64-linux","a"]}
warning: something
error: first

       at /nix/store/x-source/flake.nix:1:2:
trace: 0123456789abcdef{"path":["packages","x86_64-linux","b"]}
the last line has no end"""
SAID = b"""\
trace: the flake's own\x1b[1m words
warning: something
while evaluating packages.x86_64-linux.b:
error: first

       at flake.nix:1:2:
the last line has no end
"""


@given(st.sets(st.integers(1, len(WRITTEN) - 1)))
def test_marks_are_taken_out_wherever_the_chunks_end(cuts: set[int]) -> None:
    said: list[bytes] = []
    stream = Stderr(MARK, Places("/nix/store", "/srv/mirror"), said.append)
    ends = [*sorted(cuts), len(WRITTEN)]
    for begin, end in zip([0, *ends], ends, strict=False):
        stream.feed(WRITTEN[begin:end])
    stream.finish()
    assert b"".join(said) == SAID
    assert [mark.get("path", [""])[-1] for mark in stream.marks] == ["", "a", "b"]
    assert stream.places.source == "/nix/store/x-source"


def test_a_line_without_end_is_said_before_its_end() -> None:
    said: list[bytes] = []
    stream = Stderr(MARK, Places("/nix/store", "/srv/mirror"), said.append)
    for _ in range(100):
        stream.feed(b"x" * 10_000)
    assert sum(map(len, said)) > 900_000
    stream.feed(b"\nerror: y\n" + b"z" * 2_000_000)
    stream.finish()
    assert sum(map(len, said)) == 3_000_011


def test_a_name_without_end_is_not_waited_for() -> None:
    said: list[bytes] = []
    stream = Stderr(MARK, Places("/nix/store", "/srv/mirror"), said.append)
    stream.feed(f'trace: {MARK}{{"path":["'.encode())
    with pytest.raises(CommitFault, match="longer than a mebibyte"):
        deque(map(stream.feed, [b"x" * 64_000] * 100))
    stream.finish()
    assert said == []


def test_what_only_looks_like_a_mark_is_shown() -> None:
    """A program that is built for an evaluation can see the mark, and say what it likes."""
    said: list[bytes] = []
    stream = Stderr(MARK, Places("/nix/store", "/srv/mirror"), said.append)
    forged = [b"no json", b"[1]", b"7", b'"tree"', b"[" * 50_000]
    for value in forged:
        stream.feed(f"trace: {MARK}".encode() + value + b"\n")
    assert b"".join(said).count(MARK.encode()) == len(forged)
    assert not stream.marks
    for number in range(1000):
        stream.feed(f'trace: {MARK}{{"path":["p{number}"]}}\n'.encode())
    assert stream.marks[-1] == {"path": ["p999"]}
    assert len(stream.marks) < 10, "a million attributes must not stay in memory"
