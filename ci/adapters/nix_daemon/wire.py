"""Framing of the Nix daemon's worker protocol: integers, strings, lists. No I/O.

Everything is made of unsigned 64-bit little-endian integers; a string is its length,
its bytes and zeros up to a multiple of eight; a list is its count and its items (Nix
source: src/libutil/serialise.cc, src/libstore/worker-protocol.cc).

A parser is a generator over an `Inbox`: it yields whenever it needs more bytes than
have arrived and returns what it read. Whoever drives it feeds the inbox between two
steps, so that parsing does not depend on how the stream was cut, and nothing is parsed
twice.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable
from typing import TypeAlias, TypeVar

from ci.errors import HostFault

T = TypeVar("T")
Parse: TypeAlias = Generator[None, None, T]

MAX_REPLY = 32 * 1024 * 1024
"""Bytes of strings one reply may hold; 50 000 paths need about 5 MB."""

_U64 = struct.Struct("<Q")


class ProtocolError(HostFault):
    """The other side does not speak the worker protocol as it is known here."""


class Inbox:
    """Bytes that have arrived and are not parsed yet: `buffer` from index `at`.

    Memory grows with what has really arrived, never with a length that is only claimed;
    strings of one reply may hold `limit` bytes altogether (`begin_reply` starts over).
    """

    def __init__(self, limit: int = MAX_REPLY) -> None:
        self.buffer = bytearray()
        self.at = 0
        self._limit = limit
        self._left = limit

    def feed(self, data: bytes) -> None:
        """Add what was received."""
        del self.buffer[: self.at]
        self.at = 0
        self.buffer += data

    def begin_reply(self) -> None:
        """Allow the next reply the whole limit."""
        self._left = self._limit

    def u64(self) -> Parse[int]:
        """One integer."""
        while len(self.buffer) - self.at < 8:
            yield
        value: int = _U64.unpack_from(self.buffer, self.at)[0]
        self.at += 8
        return value

    def string(self) -> Parse[bytes]:
        """One string, whole. Raises ProtocolError beyond the limit of the reply."""
        size = yield from self.u64()
        self._spend(8 + size)
        data = yield from self.take(size)
        yield from self.padding(size)
        return data

    def text(self) -> Parse[str]:
        """One string as UTF-8; what is not UTF-8 becomes U+FFFD."""
        data = yield from self.string()
        return data.decode("utf-8", "replace")

    def texts(self) -> Parse[list[str]]:
        """A list of strings. Raises ProtocolError beyond the limit of the reply."""
        items = []
        for _ in range((yield from self.count())):
            items.append((yield from self.text()))
        return items

    def count(self) -> Parse[int]:
        """The length of a list, refused at once when its items cannot fit the limit."""
        count = yield from self.u64()
        if count * 8 > self._left:
            self._refuse(f"a list of {count} items")
        return count

    def head(self, limit: int) -> Parse[bytes]:
        """The first `limit` bytes of a string of any size; the rest is thrown away."""
        size = yield from self.u64()
        kept = yield from self.take(min(size, limit))
        yield from self.skip(size - len(kept))
        yield from self.padding(size)
        return kept

    def take(self, size: int) -> Parse[bytes]:
        """Exactly `size` bytes, unframed; the caller keeps `size` within reason."""
        while len(self.buffer) - self.at < size:
            yield
        data = bytes(self.buffer[self.at : self.at + size])
        self.at += size
        return data

    def skip(self, size: int) -> Parse[None]:
        """Throw `size` bytes away as they arrive."""
        while size > (arrived := len(self.buffer) - self.at):
            self.at += arrived
            size -= arrived
            yield
        self.at += size

    def padding(self, size: int) -> Parse[None]:
        """The zeros after a string of `size` bytes."""
        if any((yield from self.take(-size % 8))):
            raise ProtocolError(
                f"the Nix daemon sent a string of {size} bytes without its padding of "
                "zeros: the connection is out of step"
            )

    def _spend(self, size: int) -> None:
        if size > self._left:
            self._refuse(f"a string of {size} bytes")
        self._left -= size

    def _refuse(self, what: str) -> None:
        raise ProtocolError(
            f"the Nix daemon announced {what}, more than the {self._limit} bytes that "
            "one reply may hold: it is broken or the connection is out of step"
        )


def integers(*values: int) -> bytes:
    """The integers one after the other; True is 1."""
    return struct.pack(f"<{len(values)}Q", *values)


def string(value: str | bytes) -> bytes:
    """One string, framed and padded."""
    data = value.encode() if isinstance(value, str) else value
    return _U64.pack(len(data)) + data + bytes(-len(data) % 8)


def strings(values: Iterable[str]) -> bytes:
    """A list of strings."""
    items = [string(value) for value in values]
    return _U64.pack(len(items)) + b"".join(items)
