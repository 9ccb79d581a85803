"""Framing and messages: any cut of a stream parses alike, and no stream does harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings, strategies as st

from ci.adapters.nix_daemon.events import (
    Activities,
    Event,
)
from ci.adapters.nix_daemon.greeting import NEWEST, Greeting, read_greeting, read_hello
from ci.adapters.nix_daemon.messages import DaemonRefused, read_messages
from ci.adapters.nix_daemon.operations import (
    Missing,
    PathInfo,
    read_missing,
    read_path_info,
    read_results,
)
from ci.adapters.nix_daemon.results import BuildResult, BuildStatus
from ci.adapters.nix_daemon.wire import (
    Inbox,
    Parse,
    ProtocolError,
    integers,
    string,
    strings,
)
from ci.errors import DiskFull
from tests.adapters.nix_cases import STATUSES, name_of
from tests.adapters.nix_parsing import (
    ERROR,
    LAST,
    RESULT,
    START,
    STOP,
    TEXT,
    NotYet,
    cut,
    parse,
)

T = TypeVar("T")

SAMPLES = Path(__file__).parents[1] / "samples/nix"
RECORDED = tuple(
    (SAMPLES / f"conversation-{v}.bin").read_bytes() for v in ("2.8.0", "2.34.8")
)

numbers = st.integers(0, 2**64 - 1)
cuts = st.lists(st.integers(0, 100), max_size=200)


@settings(deadline=None)
@given(numbers, st.binary(max_size=300), st.lists(st.text(max_size=9)), cuts)
def test_what_is_framed_is_read_back_however_it_is_cut(
    number: int, raw: bytes, texts: list[str], sizes: list[int]
) -> None:
    def everything(inbox: Inbox) -> Parse[tuple[int, bytes, list[str]]]:
        return (
            (yield from inbox.u64()),
            (yield from inbox.string()),
            (yield from inbox.texts()),
        )

    inbox = Inbox()
    data = integers(number) + string(raw) + strings(texts)
    assert len(data) % 8 == 0
    assert parse(everything(inbox), inbox, cut(data, sizes)) == (number, raw, texts)
    inbox = Inbox()
    with pytest.raises(NotYet):
        parse(everything(inbox), inbox, cut(data[:-1], sizes))


@dataclass(frozen=True)
class Conversation:
    greeting: Greeting
    missing: Missing
    results: dict[str, BuildResult]
    info: PathInfo | None
    events: list[Event]


def conversation(inbox: Inbox) -> Parse[Conversation]:
    events: list[Event] = []

    def listened() -> Parse[None]:
        if refusal := (yield from read_messages(inbox, Activities(events.append))):
            raise refusal

    version = yield from read_hello(inbox, NEWEST)
    greeting = yield from read_greeting(inbox, version)
    yield from listened()
    yield from listened()  # of the options, which have no reply
    yield from listened()
    missing = yield from read_missing(inbox)
    yield from listened()
    results = yield from read_results(inbox, version)
    yield from listened()
    info = yield from read_path_info(inbox, "/asked")
    return Conversation(greeting, missing, results, info, events)


def converse(data: bytes, sizes: Iterable[int] = ()) -> Conversation:
    inbox = Inbox()
    return parse(conversation(inbox), inbox, cut(data, sizes))


@pytest.mark.parametrize(
    ("recorded", "greeting"),
    [
        (RECORDED[0], Greeting((1, 34), "2.8.0", None)),
        (RECORDED[1], Greeting((1, 38), "2.34.8", True)),
    ],
    ids=["2.8", "2.34"],
)
def test_recorded_conversations_are_understood(
    recorded: bytes, greeting: Greeting
) -> None:
    told = converse(recorded)
    assert told.greeting == greeting
    assert set(told.missing.will_build) == set(told.results)
    statuses = {name_of(path): result.status for path, result in told.results.items()}
    assert statuses == STATUSES
    assert told.info
    assert told.info.nar_size == 120


@settings(deadline=None)
@given(st.sampled_from(RECORDED), st.lists(st.integers(1, 3000), max_size=60))
def test_a_conversation_does_not_depend_on_how_it_was_cut(
    recorded: bytes, sizes: list[int]
) -> None:
    assert converse(recorded, sizes) == converse(recorded)


@settings(deadline=None)
@given(st.sampled_from(RECORDED), st.data())
def test_a_damaged_conversation_ends_or_waits_or_is_refused(
    recorded: bytes, data: st.DataObject
) -> None:
    damaged = bytearray(recorded)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(recorded) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    _harmless(conversation, bytes(damaged))


PARSERS: tuple[Callable[[Inbox], Parse[object]], ...] = (
    lambda inbox: read_hello(inbox, NEWEST),
    lambda inbox: read_greeting(inbox, NEWEST),
    lambda inbox: read_messages(inbox, Activities(lambda event: None)),
    read_missing,
    lambda inbox: read_results(inbox, NEWEST),
    lambda inbox: read_path_info(inbox, "/asked"),
)
words = st.sampled_from((TEXT, LAST, ERROR, START, STOP, RESULT, 0, 1, 101, 105))
garbage = st.lists(
    words.map(integers) | numbers.map(integers) | st.binary(max_size=24), max_size=40
).map(b"".join)


@settings(deadline=None)
@given(st.sampled_from(PARSERS), garbage)
def test_garbage_ends_or_waits_or_is_refused(
    parser: Callable[[Inbox], Parse[object]], data: bytes
) -> None:
    _harmless(parser, data)


def _harmless(parser: Callable[[Inbox], Parse[object]], data: bytes) -> None:
    inbox = Inbox()
    try:
        parse(parser(inbox), inbox, cut(data, [len(data) // 2]))
    except NotYet:
        assert len(inbox.buffer) <= len(data)
    except (ProtocolError, DaemonRefused, DiskFull):
        pass


@pytest.mark.parametrize(
    "announced",
    [
        integers(2**63),  # as the count of a list
        integers(1, 2**63),  # as the length of its string
        integers(2, 2**24) + bytes(2**24) + integers(2**24),  # both too large together
    ],
)
def test_what_cannot_fit_a_reply_is_refused_when_it_is_announced(
    announced: bytes,
) -> None:
    inbox = Inbox()
    with pytest.raises(ProtocolError, match="more than the 33554432 bytes"):
        parse(inbox.texts(), inbox, [announced])


def test_padding_that_is_not_zero_is_refused() -> None:
    inbox = Inbox()
    with pytest.raises(ProtocolError, match="out of step"):
        parse(inbox.string(), inbox, [integers(1) + b"a" + b"b" * 7])


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (integers(0x0A0D), "no Nix daemon answers here: its first word is 0xa0d"),
        (integers(0x6478696F, 1 << 8 | 33), r"speaks protocol 1\.33; needed is 1\.34"),
        (integers(0x6478696F, 2 << 8), r"speaks protocol 2\.0; needed is 1\.34"),
    ],
)
def test_a_stranger_is_told_from_a_daemon(said: bytes, complaint: str) -> None:
    inbox = Inbox()
    with pytest.raises(ProtocolError, match=complaint):
        parse(read_hello(inbox, NEWEST), inbox, [said])


@pytest.mark.parametrize(
    ("theirs", "agreed"), [((1, 34), (1, 34)), ((1, 39), (1, 38)), ((1, 200), (1, 38))]
)
def test_both_use_the_lower_version(
    theirs: tuple[int, int], agreed: tuple[int, int]
) -> None:
    inbox = Inbox()
    hello = integers(0x6478696F, theirs[0] << 8 | theirs[1])
    assert parse(read_hello(inbox, NEWEST), inbox, [hello]) == agreed


@pytest.mark.parametrize(
    ("number", "status"),
    [(3, BuildStatus.PERMANENT_FAILURE), (99, BuildStatus.UNKNOWN)],
)
def test_a_status_from_the_future_is_unknown_not_misread(
    number: int, status: BuildStatus
) -> None:
    inbox = Inbox()
    reply = (
        integers(1) + string("/nix/store/a.drv!*") + integers(number) + string("why")
    )
    times_and_cpu = integers(0, 0, 0, 0, 1, 5, 0)
    results = parse(
        read_results(inbox, NEWEST), inbox, [reply + times_and_cpu + integers(0)]
    )
    (told,) = results.values()
    assert told.path == "/nix/store/a.drv"
    assert told.status is status
    assert "why" in told.error
