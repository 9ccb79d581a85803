"""A git server whose pack has no end: what a broken or hostile remote can send.

The beginning is right (protocol v2, one object announced, of 2^50 bytes); then come bytes
that do not compress, for as long as somebody reads.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

FLUSH = b"0000"
NOISE = os.urandom(65_000)


def line(text: bytes) -> bytes:
    """One pkt-line (gitprotocol-common(5))."""
    return b"%04x" % (len(text) + 4) + text


def band(data: bytes) -> bytes:
    """A pkt-line of pack data (gitprotocol-pack(5), side-band-64k)."""
    return line(b"\x01" + data)


def endless_blob() -> bytes:
    """A pack of one blob that is announced with 2^50 bytes, up to its first byte."""
    size = 1 << 50
    head = bytearray([0x80 | 3 << 4 | size & 15])
    size >>= 4
    while size > 0x7F:
        head.append(0x80 | size & 0x7F)
        size >>= 7
    head.append(size)
    return b"PACK" + (2).to_bytes(4) + (1).to_bytes(4) + bytes(head) + b"\x78\x01"


def stored(data: bytes) -> bytes:
    """A block of a zlib stream that is not the last, and not compressed."""
    size = len(data)
    return (
        b"\0"
        + size.to_bytes(2, "little")
        + (size ^ 0xFFFF).to_bytes(2, "little")
        + data
    )


async def _greet(request: web.Request) -> web.StreamResponse:
    body = line(b"# service=git-upload-pack\n") + FLUSH + line(b"version 2\n")
    body += line(b"fetch=shallow\n") + line(b"object-format=sha1\n") + FLUSH
    kind = "application/x-git-upload-pack-advertisement"
    return web.Response(body=body, content_type=kind)


async def _send(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = "application/x-git-upload-pack-result"
    await response.prepare(request)
    await response.write(line(b"packfile\n") + band(endless_blob()))
    piece = band(stored(NOISE))
    while True:
        await response.write(piece)


@asynccontextmanager
async def endless_remote() -> AsyncIterator[str]:
    """Its address, for as long as the block lasts."""
    application = web.Application()
    application.router.add_get("/x.git/info/refs", _greet)
    application.router.add_post("/x.git/git-upload-pack", _send)
    async with TestServer(application) as running:
        yield str(running.make_url("/x.git"))
