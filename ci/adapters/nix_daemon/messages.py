"""Parsing the messages that a Nix daemon sends before each reply. No I/O.

Numbers and orders are those of Nix's src/libstore/worker-protocol-connection.cc.
Builders have a say in what these messages hold, so nothing they print may break the
connection or take unbounded memory: strings are cut at MAX_LINE, surplus fields are
dropped, and a longer log line arrives in pieces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum
from functools import partial

from ci.adapters.nix_daemon.events import Activities, Field, ResultKind
from ci.adapters.nix_daemon.wire import Inbox, Parse, ProtocolError
from ci.adapters.telling import plain
from ci.errors import DiskFull, HostFault, NetworkDown

MAX_LINE = 1024 * 1024
MAX_FIELDS = 8
MAX_TRACES = 16


class DaemonRefused(HostFault):
    """The daemon answered a request with an error; `str()` carries its text."""


class _Tag(IntEnum):
    TEXT = 0x6F6C6D67
    ERROR = 0x63787470
    LAST = 0x616C7473
    START = 0x53545254
    STOP = 0x53544F50
    RESULT = 0x52534C54


def read_messages(inbox: Inbox, activities: Activities) -> Parse[HostFault | None]:
    """Read to the end of the messages. None: the reply follows.

    When they end in an error no reply follows: it is returned as a DaemonRefused, or as
    DiskFull or NetworkDown where its text says so. Raises ProtocolError on what is no message.
    """
    while True:
        _whole_lines(inbox, activities.line)
        tag = yield from inbox.u64()
        if tag == _Tag.LAST:
            return None
        if tag == _Tag.ERROR:
            return _refusal((yield from _error(inbox)))
        if tag == _Tag.TEXT:
            activities.text((yield from inbox.head(MAX_LINE)))
        elif tag == _Tag.RESULT:
            yield from _result(inbox, activities)
        elif tag == _Tag.START:
            yield from _start(inbox, activities)
        elif tag == _Tag.STOP:
            activities.stop((yield from inbox.u64()))
        else:
            raise ProtocolError(f"the Nix daemon sent an unknown message {tag:#x}")


_LINE = struct.Struct("<6Q")
_IS_LINE = (int(_Tag.RESULT), int(ResultKind.BUILD_LOG_LINE), 1, 1)


def _whole_lines(inbox: Inbox, emit: Callable[[int, bytes], None]) -> None:
    """Take all log lines that have arrived whole: the one message that comes in masses.

    What does not look like one is left to the parsers, which know every case.
    """
    buffer, unpack, head = inbox.buffer, _LINE.unpack_from, _LINE.size
    at, arrived = inbox.at, len(inbox.buffer)
    while arrived - at >= head:
        tag, activity, kind, count, form, size = unpack(buffer, at)
        start = at + head
        end = start + size
        at = end + (-size & 7)
        if (tag, kind, count, form) != _IS_LINE or size > MAX_LINE or at > arrived:
            return
        if at != end and any(buffer[end:at]):
            return
        inbox.at = at
        emit(activity, bytes(buffer[start:end]))


def _start(inbox: Inbox, activities: Activities) -> Parse[None]:
    activity = yield from inbox.u64()
    level = yield from inbox.u64()
    kind = yield from inbox.u64()
    text = yield from inbox.head(MAX_LINE)
    fields = yield from _fields(inbox)
    yield from inbox.u64()  # the parent: a number that only some versions set
    activities.start(activity, level, kind, text, fields)


def _result(inbox: Inbox, activities: Activities) -> Parse[None]:
    activity = yield from inbox.u64()
    kind = yield from inbox.u64()
    pieces = partial(activities.line, activity)
    is_line = kind == ResultKind.BUILD_LOG_LINE
    fields = yield from _fields(inbox, pieces if is_line else None)
    activities.result(activity, kind, fields)


def _fields(
    inbox: Inbox, pieces: Callable[[bytes], None] | None = None
) -> Parse[list[Field]]:
    """The first MAX_FIELDS fields.

    With `pieces`, a first field that is too long goes there but for its last piece.
    """
    fields: list[Field] = []
    for index in range((yield from inbox.u64())):
        form = yield from inbox.u64()
        if form > 1:
            raise ProtocolError(f"the Nix daemon sent a field of unknown form {form}")
        field: Field
        if form == 0:
            field = yield from inbox.u64()
        elif pieces and index == 0:
            field = yield from _pieces(inbox, pieces)
        else:
            field = yield from inbox.head(MAX_LINE)
        if index < MAX_FIELDS:
            fields.append(field)
    return fields


def _pieces(inbox: Inbox, emit: Callable[[bytes], None]) -> Parse[bytes]:
    size = yield from inbox.u64()
    rest = size
    while rest > MAX_LINE:
        emit((yield from inbox.take(MAX_LINE)))
        rest -= MAX_LINE
    last = yield from inbox.take(rest)
    yield from inbox.padding(size)
    return last


def _error(inbox: Inbox) -> Parse[str]:
    """type, level, name, text, no position, then traces of (no position, text)."""
    yield from inbox.head(MAX_LINE)
    yield from inbox.u64()
    yield from inbox.head(MAX_LINE)
    texts = [_text((yield from inbox.head(MAX_LINE)))]
    yield from inbox.u64()
    for index in range((yield from inbox.u64())):
        yield from inbox.u64()
        trace = yield from inbox.head(MAX_LINE)
        if index < MAX_TRACES:
            texts.append(_text(trace))
    return "\n".join(texts)


def _refusal(text: str) -> HostFault:
    # SQLite and the kernel word it differently; both choose between faults of ours.
    text = plain(text)
    full = ("No space left on device", "database or disk is full")
    if any(words in text for words in full):
        return DiskFull(f"the Nix daemon has no room left: {text}")
    if "unable to download '" in text:
        return NetworkDown(f"a cache of the Nix daemon's does not work: {text}")
    return DaemonRefused(text)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
