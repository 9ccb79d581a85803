"""Lines of a log by number: the same from marks as from counting, and not counted twice."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ci.serve.pages import log_file
from ci.serve.pages.log_file import Part
from ci.serve.pages.log_marks import STEP, Marks

PIECES = st.lists(
    st.tuples(st.sampled_from([b"\n", b"line\n", b"x", b"\n\n"]), st.integers(1, 30)),
    min_size=1,
    max_size=8,
).map(lambda runs: b"".join(letter * count for letter, count in runs))


@given(
    data=PIECES,
    step=st.integers(1, 40),
    asked=st.lists(st.tuples(st.integers(1, 150), st.integers(0, 700)), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_marks_say_what_counting_says(
    data: bytes, step: int, asked: Sequence[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        marks = Marks(path, step)
        for line, size in asked:
            # The log has grown, if it has: marks that are there stay right.
            path.write_bytes(
                data[: max(size, path.stat().st_size if path.exists() else 0)]
            )
            end = min(size, path.stat().st_size)
            starts = [0, *(at + 1 for at in range(end) if data[at : at + 1] == b"\n")]
            assert marks.newlines(end) == len(starts) - 1
            expected = starts[line - 1] if line <= len(starts) else end
            assert marks.begins(line, end) == expected
            number, at = marks.before(line, end)
            assert number <= line
            assert data[:at].count(b"\n") == number - 1
            assert at == 0 or data[at - 1 : at] == b"\n"


def test_what_was_counted_is_not_read_again(tmp_path: Path) -> None:
    """The first MiB is not there any more, and nobody notices."""
    path = tmp_path / "log"
    line = b"x" * 1023 + b"\n"
    path.write_bytes(line * 4096)
    size = path.stat().st_size
    before = list(Part(path, size, first=3000, last=3001).lines())
    with path.open("r+b") as file:
        file.write(b"\n" * STEP)
    assert list(Part(path, size, first=3000, last=3001).lines()) == before
    assert log_file.newlines(path, size) == 4096


def test_another_log_under_the_same_name_is_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 1023 + b"\n" + b"y\n" * (2 * STEP))
    assert log_file.newlines(path, path.stat().st_size) == 2 * STEP + 1
    path.write_bytes(b"z" * (2 * STEP) + b"\nlast\n")
    assert log_file.newlines(path, path.stat().st_size) == 2


def test_a_log_that_was_cut_is_no_log_of_that_length(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"line\n" * STEP)
    os.truncate(path, STEP // 2)
    with pytest.raises(OSError, match="became shorter"):
        log_file.newlines(path, 5 * STEP)


def test_the_two_ends_of_a_long_log(tmp_path: Path) -> None:
    """By lines, by bytes, and with a last line that is too long for any end."""
    path = tmp_path / "log"
    for line, last in (
        (b"short\n", b""),
        (b"x" * 2000 + b"\n", b"no end"),
        (b"1\n", b"y" * (20 << 20)),
    ):
        count = (40 << 20) // len(line) if len(line) > 10 else 200_000
        path.write_bytes(line * count + last)
        total = count + bool(last)
        found = list(log_file.ends(Part(path, path.stat().st_size)))
        head = [n for is_head, piece in found for n in piece.numbers if is_head]
        tail = [n for is_head, piece in found for n in piece.numbers if not is_head]
        assert head == list(range(1, len(head) + 1))
        assert len(head) == min(log_file.HEAD_LINES, log_file.HEAD_BYTES // len(line))
        assert tail == list(range(tail[0], total + 1))
        room = (log_file.TAIL_BYTES - len(last)) // len(line)
        fitting = min(log_file.TAIL_LINES, max(0, room) + bool(last))
        assert len(tail) == max(1, fitting)
