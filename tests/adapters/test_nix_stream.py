"""Standard error of Nix, however it is cut into chunks."""

from __future__ import annotations

from hypothesis import given, strategies as st

from ci.adapters.nix_eval.faults import Places
from ci.adapters.nix_eval.stream import Stderr

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
