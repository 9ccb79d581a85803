"""What a daemon says while it works: events of the right derivation, bounded in size."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st

from ci.adapters.nix_daemon.events import (
    Activities,
    Event,
    LogLine,
    Message,
    Phase,
    Progress,
    Started,
    Stopped,
    Substituting,
)
from ci.adapters.nix_daemon.messages import MAX_LINE, DaemonRefused, read_messages
from ci.adapters.nix_daemon.wire import Inbox, ProtocolError, integers, string
from ci.errors import DiskFull, HostFault
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

DRV = "/nix/store/a.drv"


def messages(*chunks: bytes) -> tuple[list[Event], HostFault | None]:
    events: list[Event] = []
    inbox = Inbox()
    parser = read_messages(inbox, Activities(events.append))
    return events, parse(parser, inbox, chunks)


def start(activity: int, kind: int, *fields: str | int, text: str = "") -> bytes:
    head = integers(START, activity, 3, kind) + string(text)
    return head + framed(*fields) + integers(0)


def result(activity: int, kind: int, *fields: str | bytes | int) -> bytes:
    return integers(RESULT, activity, kind) + framed(*fields)


def framed(*fields: str | bytes | int) -> bytes:
    return integers(len(fields)) + b"".join(
        integers(0, field) if isinstance(field, int) else integers(1) + string(field)
        for field in fields
    )


@pytest.mark.parametrize(
    "endless",
    [
        integers(TEXT, 2**62),
        integers(START, 1, 3, 101, 2**62),
        integers(RESULT, 1, 101, 1, 1, 2**62),
        integers(RESULT, 1, 104, 2**62),
        integers(ERROR, 2**62),
    ],
    ids=["text", "start", "log line", "fields", "error"],
)
def test_what_never_ends_is_cut_and_takes_no_memory(endless: bytes) -> None:
    inbox = Inbox()
    parser = read_messages(inbox, Activities(lambda event: None))
    tracemalloc.start()
    with pytest.raises(NotYet):
        parse(parser, inbox, (endless, *[bytes(65536)] * 72))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MAX_LINE


@settings(deadline=None)
@given(st.lists(st.integers(0, 100), max_size=200))
def test_a_long_log_line_comes_in_pieces_that_join_to_it(sizes: list[int]) -> None:
    line = bytes(range(1, 256)) * 10_000
    stream = start(7, 105, DRV, "", 1, 1) + result(7, 101, line) + integers(LAST)
    events, refusal = messages(*cut(stream, [size * 1000 for size in sizes]))
    lines = [event for event in events if isinstance(event, LogLine)]
    assert b"".join(event.line for event in lines) == line
    assert {event.derivation for event in lines} == {DRV}
    assert max(len(event.line) for event in lines) == MAX_LINE
    assert refusal is None


def test_records_become_events_of_their_derivation() -> None:
    events, _ = messages(
        start(1, 104),
        start(2, 105, DRV, "", 1, 1),
        result(2, 101, b"raw \xff"),
        result(9, 101, b"of nobody"),
        result(2, 104, "checkPhase"),
        result(9, 104, "of nobody"),
        result(1, 105, 1, 3, 1, 0),
        result(2, 105, 9, 9, 9, 9),
        start(3, 108, "/nix/store/b", "https://cache"),
        start(4, 100, "/nix/store/b", "https://cache", "local"),
        start(5, 100, "/nix/store/c", "ssh-ng://far", "local"),
        start(6, 111, text="waiting for another build"),
        integers(TEXT) + string("\x1b[31;1merror:\x1b[0m broken\n"),
        integers(STOP, 2),
        result(2, 101, b"too late"),
        integers(LAST),
    )
    assert events == [
        Started(DRV, ""),
        LogLine(DRV, b"raw \xff"),
        LogLine(None, b"of nobody"),
        Phase(DRV, "checkPhase"),
        Progress(1, 3, 1, 0),
        Substituting("/nix/store/b", "https://cache"),
        Substituting("/nix/store/c", "ssh-ng://far"),
        Message(3, "waiting for another build"),
        Message(0, "\x1b[31;1merror:\x1b[0m broken"),
        Stopped(DRV, ""),
        LogLine(None, b"too late"),
    ]


def test_a_remote_build_is_told_once_and_keeps_the_log_of_its_second_record() -> None:
    events, _ = messages(
        start(1, 105, DRV, "ssh-ng://far", 1, 1),
        start(2, 105, DRV, "", 1, 1),
        result(2, 101, b"from far"),
        integers(STOP, 2),
        integers(STOP, 1),
        start(3, 105, DRV, "", 1, 1),
        integers(LAST),
    )
    assert events == [
        Started(DRV, "ssh-ng://far"),
        LogLine(DRV, b"from far"),
        Stopped(DRV, "ssh-ng://far"),
        Started(DRV, ""),
    ]


def test_an_error_ends_the_messages_with_its_text_and_traces() -> None:
    def refusal(text: str) -> HostFault | None:
        head = integers(ERROR) + string("Error") + integers(0) + string("Error")
        return messages(
            head + string(text) + integers(0, 1, 0) + string("while building")
        )[1]

    refused = refusal("\x1b[31;1mno such path\x1b[0m")
    assert isinstance(refused, DaemonRefused)
    assert str(refused) == "no such path\nwhile building"
    assert isinstance(refusal("writing to file: No space left on device"), DiskFull)


def test_unknown_messages_and_fields_are_refused() -> None:
    with pytest.raises(ProtocolError, match="unknown message 0x64617461"):
        messages(integers(0x64617461))
    with pytest.raises(ProtocolError, match="unknown form 2"):
        messages(integers(RESULT, 1, 101, 1, 2))
    with pytest.raises(ProtocolError, match="out of step"):
        messages(result(1, 101, b"a")[:-1] + b"b" + integers(LAST))
