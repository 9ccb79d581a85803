"""When lines of a log were written: true to a tenth of a second, or not known."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ci.adapters.logs import LogWriter, Stamper, Times, index_path, stamp
from ci.adapters.logs.times import TICK_MS, _record
from ci.errors import HostFault
from tests.fakes.waiting import wait_until

ROOT = Path(__file__).parents[2]
BEGINNING = 1_795_132_800_000
HEAD = RECORD = 16


OPENED: list[Writes] = []


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    for log in tuple(OPENED):
        log.close()


@dataclass
class Writes:
    """A log that is written by a clock of its own; `written` is (end, time) of each write.

    The file is stamped as the kernel would by that clock.
    """

    path: Path
    limit: int = 10**9
    now: int = BEGINNING
    written: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = LogWriter(self.path, self.limit, clock=lambda: self.now * 1_000_000)
        OPENED.append(self)

    def close(self) -> None:
        OPENED.remove(self)
        self.log.close()

    def write(self, data: bytes, *, after: int) -> None:
        """Write `data` so many milliseconds after the last write."""
        self.now += after
        self.log.write(data)
        self.stamp()

    def stamp(self) -> None:
        at = self.now * 1_000_000
        os.utime(self.path, ns=(at, at))
        self.written.append((self.path.stat().st_size, self.now))

    def own(self, offset: int) -> int:
        """When the byte at `offset` was written."""
        return next(at for end, at in self.written if offset < end)

    def around(self, offset: int) -> tuple[int, int]:
        """(earliest, latest) moment at which the byte can have been written.

        Both are its own unless the clock went back: it was never later than what the
        clock said afterwards, nor earlier than what it had said before.
        """
        index = next(n for n, (end, _) in enumerate(self.written) if offset < end)
        moments = [at for _, at in self.written]
        return min(moments[index:]), max(moments[: index + 1])


def lines(data: bytes) -> Iterator[int]:
    """Where each line begins."""
    at = 0
    for line in data.splitlines(keepends=True):
        yield at
        at += len(line)


def read(path: Path) -> list[int | None]:
    """The time of each line, read anew."""
    times = Times(path)
    times.look()
    return [times.at(offset) for offset in lines(path.read_bytes())]


PIECES = st.lists(
    st.tuples(
        st.sampled_from([b"a line\n", b"half ", b"\n", b"one\ntwo\n", b"x" * 3000]),
        st.one_of(st.integers(0, 150), st.integers(0, 10_000)),
    ),
    min_size=1,
    max_size=12,
)


@given(pieces=PIECES)
@settings(max_examples=150, deadline=None)
def test_every_line_of_a_whole_log_has_its_time(
    pieces: Sequence[tuple[bytes, int]],
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Writes(Path(directory) / "1.log")) as log,
    ):
        live = Times(log.path)
        for data, after in pieces:
            log.write(data, after=after)
            live.look()
            last = live.at(log.log.size - 1)
            assert last == log.now // TICK_MS * TICK_MS
        offsets = list(lines(log.path.read_bytes()))
        assert read(log.path) == [
            log.own(offset) // TICK_MS * TICK_MS for offset in offsets
        ]
        assert [live.at(offset) for offset in offsets] == read(log.path)


@given(
    pieces=PIECES,
    back=st.integers(-5_000, 0),
    log_cut=st.integers(0, 40_000),
    index_cut=st.integers(0, 300),
    zeros=st.booleans(),
    later=st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_whatever_is_lost_no_time_is_wrong(
    pieces: Sequence[tuple[bytes, int]],
    back: int,
    log_cut: int,
    index_cut: int,
    zeros: bool,
    later: bool,
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Writes(Path(directory) / "1.log")) as log,
    ):
        for number, (data, after) in enumerate(pieces):
            log.write(data, after=back if number == 4 else after)
        kept = log.path.stat()
        os.truncate(log.path, min(kept.st_size, log_cut))
        _lose(index_path(log.path), index_cut, zeros=zeros)
        if later:
            os.utime(log.path)
        else:
            os.utime(log.path, ns=(kept.st_mtime_ns, kept.st_mtime_ns))
        found = read(log.path)
        for offset, at in zip(lines(log.path.read_bytes()), found, strict=True):
            if at is not None:
                earliest, latest = log.around(offset)
                assert at <= latest
                assert earliest < at + TICK_MS
        known = [at for at in found if at is not None]
        assert known == sorted(known)


def _lose(index: Path, cut: int, *, zeros: bool) -> None:
    """Cut the index, or put zeros where its end was: power was lost."""
    data = index.read_bytes()
    lost = b"\0" * max(0, len(data) - cut) if zeros else b""
    index.write_bytes(data[:cut] + lost)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_record_that_is_torn_at_any_byte_says_nothing(
    tmp_path: Path, zeros: bool
) -> None:
    log = Writes(tmp_path / "1.log")
    for _ in range(4):
        log.write(b"line\n", after=40_000)
    whole = index_path(log.path).read_bytes()
    expected = [BEGINNING + 40_000 * number for number in (1, 2, 3, 4)]
    for cut in range(len(whole)):
        index_path(log.path).write_bytes(whole)
        _lose(index_path(log.path), cut, zeros=zeros)
        known = max(0, cut - HEAD) // RECORD
        # The last byte of a sum can be a zero that was lost.
        if zeros and whole[cut:].strip(b"\0") == b"":
            known += 1
        assert read(log.path) == [*expected[:known], *[None] * (4 - known)]


def test_records_that_go_back_end_what_is_known(tmp_path: Path) -> None:
    log = Writes(tmp_path / "1.log")
    older = Writes(tmp_path / "2.log", now=BEGINNING - 90_000)
    for after in (0, 1_000, 1_000):
        log.write(b"line\n", after=after)
        older.write(b"line\n", after=after)
    records = index_path(log.path).read_bytes()
    later_first = records[: HEAD + RECORD] + records[HEAD + 2 * RECORD :]
    for index in (later_first + records[HEAD + RECORD :], records + records[HEAD:]):
        index_path(log.path).write_bytes(index)
        found = [at for at in read(log.path) if at is not None]
        assert found == sorted(found)
    # Offsets that go on, times that do not.
    went_back = bytearray(records)
    went_back[HEAD + 2 * RECORD :] = _record(10, 5, 3)
    index_path(log.path).write_bytes(bytes(went_back))
    assert read(log.path) == [BEGINNING, BEGINNING + 1_000, None]


def test_a_log_that_was_last_changed_before_its_last_record_is_not_trusted(
    tmp_path: Path,
) -> None:
    log = Writes(tmp_path / "1.log")
    for after in (0, 5_000, 10):
        log.write(b"line\n", after=after)
    assert read(log.path) == [BEGINNING, BEGINNING + 5_000, BEGINNING + 5_000]
    at = (BEGINNING + 3_000) * 1_000_000
    os.utime(log.path, ns=(at, at))
    assert read(log.path) == [BEGINNING, BEGINNING + 5_000, None]


def test_a_clock_that_is_set_back_says_nothing_until_it_has_caught_up(
    tmp_path: Path,
) -> None:
    log = Writes(tmp_path / "1.log")
    for after in (0, 5_000, -3_000, 1_000, 2_000, 500):
        log.write(b"line\n", after=after)
    moments = [at and at - BEGINNING for at in read(log.path)]
    assert moments == [0, 5_000, None, None, 5_000, 5_500]


def test_the_index_is_small(tmp_path: Path) -> None:
    """Ten records per second at most, and one per write; none where nothing is written."""
    log = Writes(tmp_path / "1.log")
    for _ in range(3_000):
        log.write(b"x" * 79 + b"\n", after=1)
    log.write(b"late\n", after=3_600_000)
    records = (index_path(log.path).stat().st_size - HEAD) / RECORD
    assert records == 3_000 / TICK_MS + 1 + 1


def test_what_is_kept_of_the_end_has_no_time(tmp_path: Path) -> None:
    log = Writes(tmp_path / "1.log", limit=80)
    log.write(b"first\n" * 20, after=0)
    log.write(b"later\n" * 20, after=60_000)
    log.now += 60_000
    log.log.note("failed: checks.web")
    log.stamp()
    log.log.close()
    found = dict(zip(log.path.read_text().splitlines(), read(log.path), strict=True))
    assert found["first"] == BEGINNING
    assert found["later"] is None
    assert found["build-server: failed: checks.web"] == BEGINNING + 120_000


def test_a_log_that_is_written_on_keeps_what_was_known(tmp_path: Path) -> None:
    """Times are of one writer: what comes from another has none."""
    first = Writes(tmp_path / "1.log")
    first.write(b"first\n", after=0)
    first.write(b"second\n", after=1_000)
    first.log.close()
    second = Writes(tmp_path / "1.log", now=BEGINNING + 9_000)
    second.write(b"third\n", after=0)
    assert read(first.path) == [BEGINNING, BEGINNING + 1_000, None]


@pytest.mark.parametrize("index", [None, b"", b"bs-idx", b"bs-idx2\n" + b"\1" * 40])
def test_without_an_index_that_we_know_nothing_is_known(
    tmp_path: Path, index: bytes | None
) -> None:
    log = Writes(tmp_path / "1.log")
    log.write(b"one\ntwo\n", after=0)
    index_path(log.path).unlink()
    if index is not None:
        index_path(log.path).write_bytes(index)
    assert read(log.path) == [None, None]
    assert Stamper(log.path, 0).take(b"one\ntwo\n") == b"- one\n- two\n"


def test_an_index_that_cannot_be_made_costs_the_log_nothing(tmp_path: Path) -> None:
    index_path(tmp_path / "1.log").mkdir()
    log = Writes(tmp_path / "1.log")
    for _ in range(3):
        log.write(b"line\n", after=1_000)
    assert log.path.read_bytes() == b"line\n" * 3
    assert read(log.path) == [None] * 3


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file may be longer, as on a disk that is full there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_times_end_where_there_is_no_room_for_them(tmp_path: Path) -> None:
    log = Writes(tmp_path / "1.log")
    with files_end_at(HEAD + 3 * RECORD + 5):
        for _ in range(5):
            log.write(b"x\n", after=1_000)
    log.write(b"there is room again\n", after=1_000)
    expected = [BEGINNING + 1_000 * number for number in (1, 2, 3)]
    assert read(log.path) == [*expected, None, None, None]


def test_a_write_that_fails_half_way_dates_nothing_that_comes_later(
    tmp_path: Path,
) -> None:
    log = Writes(tmp_path / "1.log")
    log.write(b"whole\n", after=0)
    with files_end_at(100), pytest.raises(HostFault):
        log.write(b"half\n" * 40, after=1_000)
    log.stamp()
    log.now += 60_000
    log.log.note("the disk was full")
    log.stamp()
    found = read(log.path)
    assert found[0] == BEGINNING
    assert set(found[1:]) == {None}


@given(
    pieces=PIECES,
    cuts=st.lists(st.integers(0, 20_000), max_size=6),
    start=st.integers(0, 200),
)
@settings(max_examples=150, deadline=None)
def test_stamped_lines_are_the_log_with_times(
    pieces: Sequence[tuple[bytes, int]], cuts: Sequence[int], start: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as directory,
        closing(Writes(Path(directory) / "1.log")) as log,
    ):
        for data, after in pieces:
            log.write(data, after=after)
        whole = log.path.read_bytes()
        expected = b"".join(
            stamp(log.own(at) // TICK_MS * TICK_MS).encode() + b" " + line
            for at, line in zip(
                lines(whole), whole.splitlines(keepends=True), strict=True
            )
        )
        start = min(start, len(whole))
        stamper = Stamper(log.path, start)
        edges = sorted({start, len(whole), *(cut for cut in cuts if cut > start)})
        got = b"".join(stamper.take(whole[a:b]) for a, b in pairwise(edges))
    tail = whole[start:]
    if start == 0 or whole[start - 1 : start] == b"\n":
        assert got == (expected[-len(got) :] if got else b"")
        assert got.count(b"Z ") == len(tail.splitlines())
    else:
        rest, _, after_rest = tail.partition(b"\n")
        assert got.startswith(rest)
        assert after_rest in (b"", got) or expected.endswith(got[len(rest) + 1 :])


def test_a_stamp_is_rfc_3339() -> None:
    assert stamp(BEGINNING + 1_230) == "2026-11-20T00:00:01.2Z"
    assert stamp(None) == "-"


WRITER = """
import sys, time
from pathlib import Path
from ci.adapters.logs import LogWriter
log = LogWriter(Path(sys.argv[1]), 10**9)
while True:
    log.write(b"%d\\n" % (time.time_ns() // 1_000_000))
"""


async def test_times_after_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "1.log"
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), cwd=ROOT
    )
    index = index_path(path)
    await wait_until(
        lambda: index.exists() and index.stat().st_size > 80, what="records"
    )
    writer.send_signal(signal.SIGKILL)
    await writer.wait()
    data, found = await asyncio.to_thread(lambda: (path.read_bytes(), read(path)))
    # Each line says when it was made: before it was written, after the one before it.
    made = [int(line) for line in data.split(b"\n")[:-2]]
    assert len(made) > 100
    for (own, following), at in zip(pairwise(made), found, strict=False):
        assert at is not None
        assert own // TICK_MS * TICK_MS <= at <= following
