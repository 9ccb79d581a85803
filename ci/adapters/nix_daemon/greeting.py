"""How a client and a Nix daemon introduce themselves to each other. No I/O.

The order is that of Nix's src/libstore/worker-protocol-connection.cc. Newer abilities
are "features", from 1.38 on; none is used here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ci.adapters.nix_daemon.wire import Inbox, Parse, ProtocolError, integers, strings

Version: TypeAlias = tuple[int, int]
"""Major and minor number of the protocol."""

OLDEST = (1, 34)
"""Nix 2.8, the first with typed results for each of several derivations."""

NEWEST = (1, 38)

_CLIENT_MAGIC = 0x6E697863
_SERVER_MAGIC = 0x6478696F


@dataclass(frozen=True)
class Greeting:
    """What both sides agreed on; `trusted` is None where the daemon does not tell."""

    version: Version
    nix_version: str
    trusted: bool | None


HELLO = integers(_CLIENT_MAGIC)


def read_hello(inbox: Inbox, newest: Version) -> Parse[Version]:
    """The server's first words: the version to use is the lower of both sides'.

    Raises ProtocolError when it is no Nix daemon, or one that is too old.
    """
    magic = yield from inbox.u64()
    if magic != _SERVER_MAGIC:
        raise ProtocolError(f"no Nix daemon answers here: its first word is {magic:#x}")
    number = yield from inbox.u64()
    theirs = (number >> 8, number & 0xFF)
    if theirs < OLDEST or theirs[0] != NEWEST[0]:
        raise ProtocolError(
            f"the Nix daemon speaks protocol {theirs[0]}.{theirs[1]}; needed is "
            f"{OLDEST[0]}.{OLDEST[1]} (Nix 2.8) or a later one of that major version"
        )
    return min(theirs, newest)


def introduce(version: Version) -> bytes:
    """Our answer: the version, no feature (from 1.38), no CPU affinity, no reserve."""
    features = strings([]) if version >= (1, 38) else b""
    return integers(version[0] << 8 | version[1]) + features + integers(0, 0)


def read_greeting(inbox: Inbox, version: Version) -> Parse[Greeting]:
    """The rest of the server's introduction; messages follow, then we may ask."""
    if version >= (1, 38):
        yield from inbox.texts()
    nix_version = yield from inbox.text()
    trust = (yield from inbox.u64()) if version >= (1, 35) else 0
    return Greeting(version, nix_version, None if trust == 0 else trust == 1)
