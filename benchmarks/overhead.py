"""overhead: a whole build through the server beside `git fetch` and `nix build` by hand.

Every commit is new and has one small derivation that was never built. One repository is
small, one has 5,000 files. Nix unpacks a commit in
the directory for temporary files, which in the server's sandbox lies in memory: by hand
it does so too, or a slow disk would be taken for a fast server.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from benchmarks import pairs
from benchmarks.byhand import ByHand
from benchmarks.options import Options
from benchmarks.pairs import Pairs
from benchmarks.report import Report, Row
from benchmarks.service import world
from benchmarks.stores import each_nix, flake
from tests.fakes.nix_stores import NixStore, private_store

# Files in the repository -> commits built in a round.
SIZES = {10: 5, 5_000: 2}
RATIO, MORE = 1.05, 150.0
MEMORY = Path("/dev/shm")


async def run(report: Report, options: Options) -> None:
    rows: list[Row] = []
    judged: list[tuple[str, float, float]] = []
    for nix in each_nix(report):
        for files, commits in SIZES.items():
            with private_store(nix) as store:
                found = await _builds(store, files, commits * options.rounds)
            name = f"nix {nix.version_name}, {files:,} files"
            rows += found.rows(name)
            judged.append((name, *found.medians("finished")))
    report.table(pairs.COLUMNS, rows)
    for name, served, by_hand in judged:
        most = RATIO * by_hand + MORE
        report.goal(
            f"{name}: at most 1.05 × by hand + 150 ms",
            f"{served:.0f} ms of {most:.0f} ms",
            served <= most,
        )


async def _builds(store: NixStore, files: int, commits: int) -> Pairs:
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(world(store.env, store.program))
        temporary = stack.enter_context(_in_memory())
        place.repository = {"targets": ["packages.*"]}
        env = {**store.env, "TMPDIR": temporary}
        hand = ByHand(place.folder / "hand", place.origin, env).prepare()
        place.origin.commit({f"d{n % 50}/f{n}": f"{n}\n" * 20 for n in range(files)})
        twins = pairs.commit_twins(place.origin, commits, flake)
        return await pairs.measure(place, twins, lambda sha: hand.flake(sha, store))


@contextmanager
def _in_memory() -> Iterator[str]:
    """A temporary directory on a tmpfs, where this machine has one."""
    base = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="bs-bench-", dir=base) as name:
        yield name
