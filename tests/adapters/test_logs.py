"""Logs: what was written is what everybody reads, from any offset, at any time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ci.adapters.logs import END_KEPT, LONGEST_TAIL, LogHub, LogWriter, follow, tail
from ci.adapters.logs.hub import TICK_SECONDS
from ci.errors import DiskFull, HostFault
from tests.fakes.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
ODD = b"\0\r\x1b[2J\xff\xc3(" + b"x" * 200_000 + b"\r\nlast line without its end"

# Few letters, so that newlines meet the edges of blocks; long runs, so that they cross.
RUNS = st.lists(
    st.tuples(
        st.sampled_from([b"\n", b"x", b"\r\n", b"\0\xff", b"line\n"]),
        st.integers(1, 70_000),
    ),
    max_size=8,
).map(lambda runs: b"".join(letter * (size // len(letter)) for letter, size in runs))
BYTES = st.one_of(st.binary(max_size=300), RUNS)


async def read_all(path: Path, offset: int, hub: LogHub, over: asyncio.Event) -> bytes:
    received = b""
    async for piece in follow(path, offset, hub=hub, finished=over.is_set):
        assert 0 < len(piece) <= 65536
        received += piece
    return received


@given(
    writes=st.lists(st.tuples(BYTES, st.integers(0, 5)), max_size=8),
    offsets=st.lists(st.integers(0, 150_000), min_size=1, max_size=4),
    late=st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_followers_get_the_same_bytes_from_any_offset_at_any_time(
    writes: Sequence[tuple[bytes, int]], offsets: Sequence[int], late: int
) -> None:
    async def scenario(path: Path) -> None:
        hub, over = LogHub(tick=0), asyncio.Event()
        readers = [asyncio.create_task(read_all(path, offsets[0], hub, over))]
        with LogWriter(path, 10**9, hub) as log:
            for number, (data, turns) in enumerate(writes):
                assert log.write(data)
                for _ in range(turns):
                    await asyncio.sleep(0)
                if number == late:
                    readers += [
                        asyncio.create_task(read_all(path, offset, hub, over))
                        for offset in offsets[1:]
                    ]
        over.set()
        hub.finished(path)
        whole = b"".join(data for data, _ in writes)
        async with asyncio.timeout(PATIENCE):
            for reader, offset in zip(readers, offsets, strict=False):
                assert await reader == whole[offset:]

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "1/1.log"
        asyncio.run(scenario(path))
        assert path.read_bytes() == b"".join(data for data, _ in writes)


@given(data=BYTES, lines=st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_a_tail_is_what_reading_everything_would_give(data: bytes, lines: int) -> None:
    every = data.split(b"\n")
    if every[-1] == b"":
        every.pop()
    expected = every[len(every) - lines :] if lines < len(every) else every
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        found = tail(Path(file.name), lines)
    assert found == [line.decode(errors="replace") for line in expected]


def test_a_tail_reads_only_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(2**40)
        file.seek(0, os.SEEK_END)
        file.write(b"".join(b"\n%d" % number for number in range(200)))
    assert tail(path, 3) == ["197", "198", "199"]
    (longest,) = tail(path, 1_000)[:1]
    assert len(longest) < LONGEST_TAIL
    assert tail(tmp_path / "absent", 10) == []


@given(writes=st.lists(BYTES, max_size=8), limit=st.integers(1, 200_000))
@settings(max_examples=100, deadline=None)
def test_beyond_its_limit_a_log_has_a_mark_and_its_own_end(
    writes: Sequence[bytes], limit: int
) -> None:
    whole = b"".join(writes)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        with LogWriter(path, limit) as log:
            answers = [log.write(data) for data in writes]
            assert log.size == path.stat().st_size
            log.note("failed: checks.web")
        written = path.read_bytes()
    assert answers == sorted(answers, reverse=True)
    assert all(answers) == (len(whole) <= limit)
    if len(whole) <= limit:
        separator = b"" if whole.endswith(b"\n") or not whole else b"\n"
        assert written == whole + separator + b"build-server: failed: checks.web\n"
        return
    assert written[:limit] == whole[:limit]
    assert written.count(b"build-server: log cut here at ") == 1
    most = min(END_KEPT, limit // 8)
    kept = whole[limit:][-most:] if most else b""
    last = b"" if kept.endswith(b"\n") or not kept else b"\n"
    assert written.endswith(kept + last + b"build-server: failed: checks.web\n")
    left_out = len(whole) - limit - len(kept)
    assert (b" are left out here\n" in written[limit:]) == (left_out > 0)


def test_the_mark_reads_well(tmp_path: Path) -> None:
    with LogWriter(tmp_path / "log", 2**20) as log:
        for _ in range(3):
            log.write(b"x" * 2**20)
    lines = (tmp_path / "log").read_bytes().split(b"\n")
    assert lines[1].startswith(
        b"build-server: log cut here at 1 MiB; only its last 64 KiB"
    )
    assert lines[2] == b"build-server: 1.9 MiB are left out here"


async def test_odd_bytes_pass_unchanged(tmp_path: Path) -> None:
    hub, over = LogHub(), asyncio.Event()
    with LogWriter(tmp_path / "log", 10**9, hub) as log:
        log.write(ODD)
    over.set()
    assert await read_all(tmp_path / "log", 0, hub, over) == ODD


async def test_a_thousand_followers_are_woken_by_ticks_not_by_lines(
    tmp_path: Path,
) -> None:
    path, hub, over = tmp_path / "log", LogHub(), asyncio.Event()
    pieces = 0

    async def reader() -> bytes:
        nonlocal pieces
        received = b""
        async for piece in follow(path, 0, hub=hub, finished=over.is_set):
            pieces += 1
            received += piece
        return received

    readers = [asyncio.create_task(reader()) for _ in range(1000)]
    await asyncio.sleep(0)
    files = len(os.listdir("/proc/self/fd"))
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with LogWriter(path, 10**9, hub) as log:
        for number in range(4000):
            log.write(b"%06d\n" % number)
            if number % 20 == 0:
                await asyncio.sleep(0)
                # The log and its index.
                assert len(os.listdir("/proc/self/fd")) == files + 2
    over.set()
    hub.finished(path)
    whole = b"".join(b"%06d\n" % number for number in range(4000))
    assert all([await task == whole for task in readers])
    ticks = (loop.time() - begun) / TICK_SECONDS + 2
    assert pieces <= 1000 * ticks


async def test_a_follower_that_stalls_holds_nobody_up(tmp_path: Path) -> None:
    path, hub = tmp_path / "log", LogHub()
    stalled = follow(path, 0, hub=hub, finished=lambda: True)
    with LogWriter(path, 10**9, hub) as log:
        log.write(b"first\n")
        assert await anext(stalled) == b"first\n"
        for _ in range(1000):
            log.write(b"x" * 10_000)
        assert log.size == 10_000_006
    await stalled.aclose()


async def test_a_lost_ring_is_made_up_for(tmp_path: Path) -> None:
    """Somebody else wrote the file, and nobody rang."""
    path, hub, over = tmp_path / "log", LogHub(look_again=0.1), asyncio.Event()
    reader = asyncio.create_task(read_all(path, 0, hub, over))
    await asyncio.sleep(0)
    path.write_bytes(b"unannounced")
    over.set()
    async with asyncio.timeout(PATIENCE):
        assert await reader == b"unannounced"


WRITER = """
import sys
from pathlib import Path
from ci.adapters.logs import LogWriter
log = LogWriter(Path(sys.argv[1]), 10**9)
number = 0
while True:
    log.write(b"%d\\n" % number)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
    number += 1
"""


async def test_what_was_written_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), cwd=ROOT, stdout=-1
    )
    assert writer.stdout is not None
    await wait_until(
        lambda: path.exists() and path.stat().st_size > 5_000, what="lines"
    )
    writer.send_signal(signal.SIGKILL)
    acknowledged = (await writer.communicate())[0].split(b"\n")[:-1]
    written = path.read_bytes().split(b"\n")[:-1]
    assert len(acknowledged) > 100
    assert written[: len(acknowledged)] == acknowledged


def test_a_log_that_cannot_be_written_is_a_fault_of_ours(tmp_path: Path) -> None:
    full = LogWriter(Path("/dev/full"), 10**9)
    with pytest.raises(DiskFull, match="no room for the log /dev/full"):
        full.write(b"x")
    full.close()
    (tmp_path / "file").touch()
    with pytest.raises(HostFault, match="cannot be written: File exists"):
        LogWriter(tmp_path / "file/log", 10**9)
