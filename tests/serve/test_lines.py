"""Picking one derivation's lines out of a log, however the log is cut into pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from itertools import pairwise

from hypothesis import given, strategies as st

from ci.models import BuildState, Target, derivation_name
from ci.serve.lines import LONGEST_LINE, of_target

DERIVATION = "/nix/store/0c6kzph7l0dcbfmjap64f0czdafn3b7x-web-test-1.0.drv"
PREFIX = b"web-test-1.0> "


def target(error: str | None = None, derivation: str | None = DERIVATION) -> Target:
    return Target("checks.web", BuildState.FAILED, 1.0, error, derivation=derivation)


async def picked(pieces: Sequence[bytes], wanted: Target) -> bytes:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    return b"".join([part async for part in of_target(chunks(), wanted)])


def test_name_of_a_derivation_is_without_hash_and_suffix() -> None:
    assert derivation_name(DERIVATION) == "web-test-1.0"


line = st.builds(
    lambda prefix, rest: prefix + rest.replace(b"\n", b"") + b"\n",
    st.sampled_from([PREFIX, b"web-test-1.0-doc> ", b" web-test-1.0> ", b"x> ", b""]),
    st.binary(max_size=20),
)


@given(
    lines=st.lists(line, max_size=12), cuts=st.lists(st.integers(0, 300), max_size=8)
)
async def test_pieces_make_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    log = b"".join(lines)
    bounds = [0, *sorted(min(cut, len(log)) for cut in cuts), len(log)]
    pieces = [log[a:b] for a, b in pairwise(bounds)]
    own = [found for found in lines if found.startswith(PREFIX)]
    assert await picked(pieces, target()) == b"".join(own)


async def test_last_line_needs_no_newline() -> None:
    assert await picked([b"x> a\n" + PREFIX, b"end"], target()) == PREFIX + b"end"


async def test_error_stands_in_for_lines_that_are_not_there() -> None:
    assert await picked([b"x> a\n"], target("refused")) == b"refused\n"
    assert await picked([PREFIX + b"a\n"], target("refused")) == PREFIX + b"a\n"
    assert await picked([b"x> a\n"], target("no such", None)) == b"no such\n"
    assert await picked([b"x> a\n"], target(None, None)) == b""


async def test_endless_line_is_not_kept_in_memory() -> None:
    piece = b"y" * 65536
    pieces = [PREFIX, *[piece] * (2 * LONGEST_LINE // len(piece)), b"\n"]
    found = await picked(pieces, target())
    assert LONGEST_LINE < len(found) < LONGEST_LINE + 2 * len(piece)
