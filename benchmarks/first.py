"""first: from a push to its build's first instruction and to its end, server idle.

Forty pushes one after the other, each of a new commit; in turn with the same commands
by hand (`git fetch`, unpacking, `./ci`; or `git fetch`, `nix build`).
"""

from __future__ import annotations

from benchmarks import pairs
from benchmarks.byhand import ByHand
from benchmarks.options import Options
from benchmarks.pairs import Pairs, Twins
from benchmarks.pushing import CLOCK_SCRIPT
from benchmarks.report import Report, Row
from benchmarks.service import world
from benchmarks.stores import each_nix, flake
from tests.fakes.nix_stores import NixStore, private_store
from tests.fakes.repository import Files, Origin

PUSHES = 40


async def run(report: Report, options: Options) -> None:
    found = await _command()
    rows: list[Row] = found.rows("command")
    nothing = {}
    for nix in each_nix(report):
        with private_store(nix) as store:
            nothing[nix.version_name] = await _flake(store)
        rows += nothing[nix.version_name].rows(f"nix {nix.version_name}, nothing new")
    report.table(pairs.COLUMNS, rows)
    more = found.more("first")
    report.goal(
        "a push to the first instruction of its command: 150 ms more than by hand",
        f"{more:.0f} ms more",
        more < 150,
    )
    for version, found in nothing.items():
        more = found.more("finished")
        report.goal(
            f"nix {version}: a push to the end of a build with nothing to do: "
            "150 ms more than by hand",
            f"{more:.0f} ms more",
            more < 150,
        )


async def _command() -> Pairs:
    async with world() as place:
        place.repository = {"builder": "command", "command": ["./ci"]}
        hand = ByHand(place.folder / "hand", place.origin, place.environ).prepare()
        twins = _commits(place.origin, {"ci": CLOCK_SCRIPT})
        return await pairs.measure(place, twins, hand.command)


async def _flake(store: NixStore) -> Pairs:
    """Commits that change nothing in the derivation."""
    async with world(store.env, store.program) as place:
        place.repository = {"targets": ["packages.*"]}
        hand = ByHand(place.folder / "hand", place.origin, store.env).prepare()
        twins = _commits(place.origin, flake("always the same"))
        return await pairs.measure(place, twins, lambda sha: hand.flake(sha, store))


def _commits(origin: Origin, files: Files) -> list[Twins]:
    origin.commit(files, executable=["ci"])
    return pairs.commit_twins(origin, PUSHES, lambda word: {"n": word})
