"""Which blocking calls our code may make inside the event loop, and why.

Everything else fails the test that does it. Extend ALLOWED with a reason; do not switch
the guard off for a whole test.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blockbuster import BlockBuster, blockbuster_ctx


@dataclass(frozen=True)
class Allowance:
    """`functions` of `file` (the end of its path) may call any of `calls`."""

    file: str
    functions: frozenset[str]
    calls: tuple[str, ...]
    reason: str


FILE_CALLS = (
    "io.BufferedReader.read",
    "io.BufferedWriter.write",
    "io.BufferedRandom.read",
    "io.BufferedRandom.write",
    "io.TextIOWrapper.read",
    "io.TextIOWrapper.write",
    "os.read",
    "os.write",
    "os.stat",
    "os.mkdir",
)

ALLOWED: tuple[Allowance, ...] = (
    Allowance(
        "ci/adapters/logs/__init__.py",
        frozenset({"__init__", "_append", "_read"}),
        FILE_CALLS,
        "one append or read of at most 64 KiB of a local file costs less than a thread",
    ),
    Allowance(
        "ci/adapters/process/child.py",
        frozenset({"_start"}),
        ("os.read", "os.stat", "os.access"),
        "a child dies with the thread that started it, so that must be the loop's; "
        "asyncio's own start of a subprocess blocks for the same millisecond",
    ),
    Allowance(
        "ci/adapters/process/__init__.py",
        frozenset({"_memory_file"}),
        ("io.BufferedWriter.write",),
        "a file in memory",
    ),
)


@contextmanager
def loop_guard() -> Iterator[BlockBuster]:
    """Raise BlockingError wherever code of `ci` blocks a running event loop."""
    with blockbuster_ctx("ci") as guard:
        for allowance in ALLOWED:
            for call in allowance.calls:
                guard.functions[call].can_block_in(allowance.file, allowance.functions)
        yield guard
