"""Picking one derivation's lines out of a log.

In a Nix build's log every line is `<derivation name>> <what the builder wrote>`; the
name is the store path's without hash and `.drv`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ci.models import Target, derivation_name

LONGEST_LINE = 1024 * 1024


async def of_target(
    chunks: AsyncGenerator[bytes, None], target: Target
) -> AsyncGenerator[bytes, None]:
    """The lines of the target's own derivation; its error when there is none."""
    found = False
    async with aclosing(chunks):
        if target.derivation is not None:
            name = derivation_name(target.derivation)
            async for part in _of_derivation(chunks, name):
                found = True
                yield part
    if not found and target.error:
        yield target.error.encode(errors="replace") + b"\n"


async def _of_derivation(
    chunks: AsyncIterator[bytes], name: str
) -> AsyncGenerator[bytes, None]:
    """Whole lines that begin with the name, as they come."""
    pattern = re.compile(rb"^" + re.escape(name.encode()) + rb"> .*\n?", re.MULTILINE)
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
