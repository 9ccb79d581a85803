"""Driving the parsers of the Nix protocol without a daemon."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

from ci.adapters.nix_daemon.wire import Inbox, Parse

T = TypeVar("T")

TEXT, LAST, ERROR = 0x6F6C6D67, 0x616C7473, 0x63787470
START, STOP, RESULT = 0x53545254, 0x53544F50, 0x52534C54


class NotYet(Exception):
    """The stream ended before the parser was done."""


def parse(parser: Parse[T], inbox: Inbox, chunks: Iterable[bytes]) -> T:
    for chunk in chunks:
        try:
            next(parser)
        except StopIteration as end:
            return cast(T, end.value)
        inbox.feed(chunk)
    try:
        next(parser)
    except StopIteration as end:
        return cast(T, end.value)
    raise NotYet


def cut(data: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        yield data[at : at + size]
        at += size
    yield data[at:]
