"""A daemon that says anything at all: never a hang, never an error of another kind.

The parsers alone are tried in test_nix_wire.py; here it is the whole client, over a real
socket, from the greeting to the last reply.
"""

from __future__ import annotations

import asyncio
import tempfile
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings, strategies as st

from ci.adapters.nix_daemon import (
    BuildResult,
    BuildStatus,
    Event,
    LogLine,
    Message,
    Phase,
    Progress,
    Started,
    Stopped,
    Substituting,
    connect,
)
from ci.adapters.nix_daemon.wire import integers, string, strings
from ci.errors import HostFault
from tests.adapters.nix_cases import PATH, Location
from tests.adapters.nix_parsing import ERROR, LAST, RESULT, START, STOP, TEXT

SAMPLES = Path(__file__).parents[1] / "samples/nix"
# What a daemon said, byte for byte: greeting, options, missing, build, path info.
RECORDED = tuple(
    (SAMPLES / f"conversation-{version}.bin").read_bytes()
    for version in ("2.8.0", "2.34.8")
)
DERIVATION = "/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web-1.0.drv"
OTHER = "/nix/store/1c6kzph7l0dcbfmjap64f0czdafn3b7x-lib-1.0.drv"
EVENTS = (LogLine, Message, Phase, Progress, Started, Stopped, Substituting)
# Nobody waits for a daemon that has hung up; the rest is for a slow machine.
SOON = 20.0
# Of the 16 MiB that come, no more than a line and what a socket buffers.
MOST_MEMORY = 6 * 1024 * 1024

numbers = st.sampled_from([0, 1, 3, 8, 101, 105, 2**31, 2**32, 2**62, 2**64 - 1])
forged = st.sampled_from(
    [
        b'@nix {"action":"result","id":1,"type":101,"fields":["forged"]}',
        integers(LAST, 1),
        integers(ERROR) + string("Error"),
        b"error: build of '" + DERIVATION.encode() + b"' on 'ssh://x' failed: x",
        b"\x1b]0;title\x07\x1b[2J",
        b"No space left on device",
        b"",
    ]
)
texts = forged | st.binary(max_size=40)
activities = st.integers(1, 4)

greeting = st.builds(
    lambda minor, name: (
        integers(0x6478696F, 1 << 8 | minor)
        + (strings([]) if minor >= 38 else b"")
        + string(name)
        + (integers(1) if minor >= 35 else b"")
        + integers(LAST)
    ),
    st.integers(34, 40),
    texts,
)
fields = st.lists(
    st.builds(lambda n: integers(0, n), numbers)
    | st.builds(lambda t: integers(1) + string(t), texts),
    max_size=3,
).map(lambda parts: integers(len(parts)) + b"".join(parts))
chatter = st.one_of(
    st.builds(lambda t: integers(TEXT) + string(t), texts),
    st.builds(
        lambda a, k, t, f: integers(START, a, 3, k) + string(t) + f + integers(0),
        activities,
        st.sampled_from([100, 104, 105, 108, 111]),
        texts,
        fields,
    ),
    st.builds(lambda a: integers(STOP, a), activities),
    st.builds(
        lambda a, k, f: integers(RESULT, a, k) + f,
        activities,
        st.sampled_from([101, 104, 105]),
        fields,
    ),
)
messages = st.one_of(
    chatter,
    st.builds(
        lambda t: (
            integers(ERROR)
            + string("Error")
            + integers(0)
            + string("Error")
            + string(t)
            + integers(0, 0)
        ),
        texts,
    ),
    st.just(integers(LAST)),
)
realisations = st.sampled_from(
    ["{}", "[]", "null", '{"outPath": 1}', '{"outPath": "x-out"}', "[" * 9999, "{", ""]
)
outputs = st.lists(realisations, max_size=2).map(
    lambda found: (
        integers(len(found))
        + b"".join(string("sha256:0!out") + string(each) for each in found)
    )
)
results = st.builds(
    lambda path, status, said, made: (
        integers(1)
        + string(path)
        + integers(status)
        + string(said)
        + integers(0, 0, 0, 0)
        + made
    ),
    st.sampled_from([DERIVATION, DERIVATION + "!*", "", OTHER]),
    numbers,
    texts,
    outputs,
)
# From the greeting to the results: what only a conversation that went well so far hears.
opening = (
    integers(0x6478696F, 1 << 8 | 34)
    + string("2.8.0")
    + integers(LAST, LAST, LAST)
    + strings([]) * 3
    + integers(0, 0)
)
# A frame that claims more than will ever come.
hostile = st.builds(
    lambda tag, size: integers(tag, size),
    st.sampled_from([TEXT, START, RESULT, ERROR, LAST, 0, 1]),
    numbers,
)
pieces = st.lists(
    st.one_of(messages, messages, results, hostile, st.binary(max_size=16)),
    max_size=14,
)
speeches = st.one_of(
    st.builds(lambda hello, rest: hello + b"".join(rest), greeting, pieces),
    st.builds(
        lambda said, end, rest: opening + b"".join([*said, integers(LAST), end, *rest]),
        st.lists(chatter, max_size=4),
        results,
        pieces,
    ),
    pieces.map(b"".join),
)


@asynccontextmanager
async def saying(chunks: Sequence[bytes]) -> AsyncIterator[Location]:
    """A daemon that says this whatever it is asked, then hangs up."""

    talks: list[asyncio.Task[None] | None] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        try:
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass  # the client has heard enough
        finally:
            writer.close()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "socket")
        server = await asyncio.start_unix_server(talk, path)
        async with server:
            yield Location("", {}, path)
            await asyncio.gather(*filter(None, talks))


def chopped(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


async def converse(
    chunks: Sequence[bytes], on_event: Callable[[Event], None]
) -> dict[str, BuildResult]:
    """All that a build asks of a daemon; the results that it gave before it failed."""
    built: dict[str, BuildResult] = {}
    async with saying(chunks) as location, asyncio.timeout(SOON):
        with suppress(HostFault):
            async with connect(location, env=PATH) as daemon:
                await daemon.set_options(keep_going=True, timeout=9, silent=9)
                await daemon.query_missing([DERIVATION])
                built = await daemon.build([DERIVATION], on_event)
                await daemon.query_path_info(DERIVATION)
    return built


@settings(max_examples=120, deadline=None)
@given(speeches, st.lists(st.integers(0, 600), max_size=6))
def test_whatever_a_daemon_says_is_an_answer_or_a_fault_of_the_host(
    speech: bytes, cuts: list[int]
) -> None:
    heard: list[Event] = []
    built = asyncio.run(converse(chopped(speech, cuts), heard.append))
    assert all(isinstance(event, EVENTS) for event in heard)
    for result in built.values():
        assert isinstance(result, BuildResult)
        assert isinstance(result.status, BuildStatus)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(RECORDED),
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 9000)), max_size=4),
    st.lists(st.integers(0, 9000), max_size=6),
    st.data(),
)
def test_a_conversation_out_of_order_or_cut_short_ends(
    recorded: bytes, swaps: list[tuple[int, int]], cuts: list[int], data: st.DataObject
) -> None:
    """Words of eight bytes change places, and the end is lost; results are never half."""
    words = [recorded[at : at + 8] for at in range(0, len(recorded), 8)]
    for a, b in swaps:
        a, b = a % len(words), b % len(words)
        words[a], words[b] = words[b], words[a]
    kept = data.draw(st.integers(0, len(words)), label="words that come")
    speech = b"".join(words[:kept])
    built = asyncio.run(converse(chopped(speech, cuts), lambda event: None))
    if built and not swaps:
        assert built == asyncio.run(converse([recorded], lambda event: None))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(
        [
            integers(TEXT, 2**62),
            integers(START, 1, 3, 105, 2**62),
            integers(RESULT, 1, 101, 1, 1, 2**62),
            integers(ERROR, 2**62),
            integers(LAST, 2**62),
            integers(LAST, 1, 2**62),
        ]
    )
)
def test_a_claim_of_petabytes_takes_no_memory(claim: bytes) -> None:
    hello = integers(0x6478696F, 1 << 8 | 34) + string("2.8.0") + integers(LAST)
    chunks = [hello + integers(LAST), claim, *[bytes(65536)] * 256]
    tracemalloc.start()
    try:
        asyncio.run(converse(chunks, lambda event: None))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY


@dataclass(frozen=True)
class Line:
    """One log line that a builder wrote, or the beginning or end of a builder."""

    activity: int
    what: str
    data: bytes = b""

    def framed(self) -> bytes:
        match self.what:
            case "start":
                path = DERIVATION if self.activity % 2 else OTHER
                parts = integers(1) + string(path) + integers(1) + string("")
                head = integers(START, self.activity, 3, 105) + string("")
                return head + integers(2) + parts + integers(0)
            case "stop":
                return integers(STOP, self.activity)
            case _:
                head = integers(RESULT, self.activity, 101, 1, 1)
                return head + string(self.data)


lines = st.lists(
    st.builds(
        Line,
        activities,
        st.sampled_from(["start", "stop", "line", "line", "line"]),
        texts | st.binary(min_size=4000, max_size=4200),
    ),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(lines, st.lists(st.integers(0, 20_000), max_size=12))
def test_log_lines_arrive_in_order_unchanged_and_under_their_builders_name(
    said: list[Line], cuts: list[int]
) -> None:
    """Whatever a builder prints, frames and all, is text: it moves nothing else."""
    body = b"".join(line.framed() for line in said)
    speech = opening + body + integers(LAST, 0)
    heard: list[Event] = []
    asyncio.run(converse(chopped(speech, cuts), heard.append))
    running: dict[int, str] = {}
    expected: list[Event] = []
    for line in said:
        match line.what:
            case "start":
                path = running[line.activity] = (
                    DERIVATION if line.activity % 2 else OTHER
                )
                expected.append(Started(path, ""))
            case "stop" if line.activity in running:
                expected.append(Stopped(running.pop(line.activity), ""))
            case "line":
                expected.append(LogLine(running.get(line.activity), line.data))
    assert heard == expected
