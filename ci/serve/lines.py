"""Picking one derivation's lines out of a log, and saying when lines were written.

In a Nix build's log every line is `<derivation name>> <what the builder wrote>`; the
name is the store path's without hash and `.drv`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

from ci.adapters.logs import Stamper, stamp
from ci.models import Target, derivation_name

LONGEST_LINE = 1024 * 1024


async def of_target(
    chunks: AsyncGenerator[bytes, None], target: Target, *, timed: bool = False
) -> AsyncGenerator[bytes, None]:
    """The lines of the target's own derivation; its error when there is none.

    `timed`: a time and a space stand before each line.
    """
    found = False
    async with aclosing(chunks):
        if target.derivation is not None:
            name = derivation_name(target.derivation)
            async for part in _of_derivation(chunks, name, timed=timed):
                found = True
                yield part
    if not found and target.error:
        front = f"{stamp(None)} " if timed else ""
        for line in target.error.split("\n"):
            yield f"{front}{line}\n".encode(errors="replace")


async def with_times(
    chunks: AsyncGenerator[bytes, None], path: Path, start: int
) -> AsyncGenerator[bytes, None]:
    """The bytes of a log from `start` on with a time before each line; see Stamper."""
    stamper = await asyncio.to_thread(Stamper, path, start)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield await asyncio.to_thread(stamper.take, chunk)


async def _of_derivation(
    chunks: AsyncIterator[bytes], name: str, *, timed: bool
) -> AsyncGenerator[bytes, None]:
    """Whole lines that begin with the name, as they come."""
    front = rb"^\S+ " if timed else rb"^"
    pattern = re.compile(front + re.escape(name.encode()) + rb"> .*\n?", re.MULTILINE)
    rest = b""
    async for chunk in chunks:
        whole, newline, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > LONGEST_LINE:
            whole, newline, rest = whole + newline + rest, b"", b""
        matched = b"".join(pattern.findall(whole + newline))
        if matched:
            yield matched
    matched = b"".join(pattern.findall(rest))
    if matched:
        yield matched
