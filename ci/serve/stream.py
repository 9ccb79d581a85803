"""Bodies that are sent piece by piece.

A reader who takes too long over one piece is cut off; until then it costs its own socket
buffer and that piece, and nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

from aiohttp import hdrs, web

from ci.serve.answers import PLAIN_TEXT

log = logging.getLogger(__name__)

WRITE_SECONDS = 30.0
PIECE = 64 * 1024

Chunks = AsyncGenerator[bytes, None]


async def send(
    request: web.Request,
    chunks: Chunks,
    headers: Mapping[str, str],
    length: int | None = None,
    *,
    patience: float = WRITE_SECONDS,
) -> web.StreamResponse:
    """Send `chunks` as plain text; `length` is their sum in bytes, when it is known.

    A body that cannot be sent to its end is cut without HTTP's end mark, so that its
    reader can tell. `patience` is how many seconds one piece may take.
    """
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: PLAIN_TEXT, **headers})
    response.content_length = length
    try:
        await response.prepare(request)
        if request.method == hdrs.METH_HEAD:
            return response
        async with aclosing(chunks):
            async for chunk in chunks:
                async with asyncio.timeout(patience):
                    await response.write(chunk)
        async with asyncio.timeout(patience):
            await response.write_eof()
    except (TimeoutError, OSError) as error:
        log.info("%s: cut off: %s", request.path, str(error) or "the reader stalled")
        _cut(request)
    except Exception:
        log.exception("%s: cut off", request.path)
        _cut(request)
    return response


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


async def stored(path: Path, start: int, end: int) -> Chunks:
    """The bytes of a file from `start` to before `end`; OSError when they are gone."""
    while start < end:
        chunk = await asyncio.to_thread(_read, path, start, min(PIECE, end - start))
        if not chunk:
            raise OSError(f"{path} became shorter while it was read")
        start += len(chunk)
        yield chunk


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, start)
