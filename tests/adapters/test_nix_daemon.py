"""Real builds through real daemons, as a child and behind a socket, old and new."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from ci.adapters.nix_daemon import (
    BuildResult,
    BuildStatus,
    DaemonRefused,
    Event,
    LogLine,
    Message,
    Phase,
    Progress,
    Started,
    Stopped,
    connect,
    first_error,
)
from tests.adapters.nix_cases import FATES, PATH, STATUSES, Site

# Seconds: of a build, of its silence, and what none of these takes.
LIMIT, SILENCE, LONG = 8, 2, 100


@dataclass(frozen=True)
class Outcome:
    """What came of FATES in one request: by name of the derivation."""

    paths: dict[str, str]
    results: dict[str, BuildResult]
    events: list[Event]

    def lines(self, name: str) -> list[bytes]:
        path = self.paths[name]
        return [
            event.line
            for event in self.events
            if isinstance(event, LogLine) and event.derivation == path
        ]


@pytest.fixture(scope="session")
def outcome(site: Site) -> Outcome:
    """One build of everything, looked at by several tests.

    But for the silent one, which is built first: its limit would be that of every other,
    and a daemon that a disk keeps waiting for so long calls them all silent.
    """
    paths = site.write(FATES)
    events: list[Event] = []

    async def build(limit: int, silent: int, *built: str) -> dict[str, BuildResult]:
        async with connect(site.location, env=PATH) as daemon:
            await daemon.set_options(
                keep_going=True, timeout=limit, silent=silent, jobs=8
            )
            return await daemon.build(built, events.append)

    rest = [path for name, path in paths.items() if name != "silent"]
    results = asyncio.run(build(LONG, SILENCE, paths["silent"]))
    results |= asyncio.run(build(LIMIT, LONG, *rest))
    return Outcome(paths, {name: results[paths[name]] for name in paths}, events)


def test_each_derivation_has_a_result_of_its_own(outcome: Outcome) -> None:
    statuses = {name: result.status for name, result in outcome.results.items()}
    assert statuses == STATUSES


def test_outputs_are_told_by_name(outcome: Outcome) -> None:
    outputs = outcome.results["two"].outputs
    assert Path(outputs["out"]).read_text() == "a\n"
    assert Path(outputs["dev"]).read_text() == "b\n"
    assert {name for name, result in outcome.results.items() if result.outputs} == {
        "good",
        "raw",
        "two",
    }


def test_failures_are_explained_in_one_line(outcome: Outcome, site: Site) -> None:
    told = {
        name: first_error(
            outcome.results[name],
            outcome.lines(name),
            dependency=outcome.paths["bad"] if name == "child" else None,
        )
        for name, status in STATUSES.items()
        if status is not BuildStatus.BUILT
    }
    modern = site.store.version >= (2, 34)
    executing = "executing '/nowhere': No such file or directory"
    assert told == {
        "bad": "builder failed with exit code 3: expected 200, got 500",
        "child": "dependency bad.drv failed",
        "killed": "killed by signal 9",
        "missing": "failed to produce output 'out'",
        "hash": "hash mismatch: write hash = "
        '"sha256-VD34n+yFscKA5b57xqM+MSA1A81u2zCEMS3k21qbQ2w=" for hash; it was '
        "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "fetch": "builder failed with exit code 1: no route to host",
        "refers": "output 'refers' is not allowed to refer to the following paths: good",
        "unrunnable": "builder failed with exit code 1: "
        + (f"error: {executing}" if modern else executing),
        "slow": f"timed out after {LIMIT} seconds; last line: tick",
        "silent": f"timed out after {SILENCE} seconds"
        + ("" if modern else " of silence"),
        "forger": "builder failed with exit code 4",
    }


def test_log_lines_are_raw_bytes_of_their_derivation(outcome: Outcome) -> None:
    assert outcome.lines("good") == [b"hello"]
    assert outcome.lines("raw") == [
        b"nul \0 latin \xe9",
        b"",
        b"x" * 200_000,
        b"without newline",
    ]


def test_builders_are_told_from_their_start_to_their_end(outcome: Outcome) -> None:
    ran = {path for name, path in outcome.paths.items() if name != "child"}
    started = [event for event in outcome.events if isinstance(event, Started)]
    assert Counter(started) == Counter(Started(path, "") for path in ran)
    stopped = [event for event in outcome.events if isinstance(event, Stopped)]
    assert Counter(stopped) == Counter(Stopped(path, "") for path in ran)
    counts = [event for event in outcome.events if isinstance(event, Progress)]
    assert counts[-1].running == 0
    assert counts[-1].done == 3


def test_what_a_builder_forges_changes_nothing(outcome: Outcome) -> None:
    assert Message(3, "forged message") in outcome.events  # the daemon lets it through
    assert Phase(outcome.paths["forger"], "forged phase") in outcome.events
    known = set(outcome.paths.values())
    for event in outcome.events:
        if isinstance(event, Started | Stopped | Phase | LogLine):
            assert event.derivation in known
    assert outcome.lines("forger") == []
    assert outcome.results["forger"].status is BuildStatus.PERMANENT_FAILURE


async def test_what_is_already_there_is_not_built_again(
    outcome: Outcome, site: Site
) -> None:
    wanted = [outcome.paths["good"], outcome.paths["two"]]
    events: list[Event] = []
    async with connect(site.location, env=PATH) as daemon:
        missing = await daemon.query_missing([*wanted, outcome.paths["child"]])
        results = await daemon.build(wanted, events.append)
    bad, child = outcome.paths["bad"], outcome.paths["child"]
    assert set(missing.will_build) == {bad, child}
    assert {result.status for result in results.values()} == {BuildStatus.ALREADY_VALID}
    assert results[wanted[0]].outputs == outcome.results["good"].outputs
    assert not [event for event in events if isinstance(event, Started)]


async def test_paths_are_described(outcome: Outcome, site: Site) -> None:
    output = outcome.results["good"].outputs["out"]
    absent = str(site.store.root / "store" / ("a" * 32 + "-absent"))
    async with connect(site.location, env=PATH) as daemon:
        assert daemon.nix_version == site.store.version_name
        valid = await asyncio.gather(
            *(daemon.valid([path]) for path in (output, absent) * 3)
        )
        info = await daemon.query_path_info(output)
        nothing = await daemon.query_path_info(absent)
    assert valid == [{output}, set()] * 3
    assert nothing is None
    assert info
    assert (info.path, info.deriver) == (output, outcome.paths["good"])
    assert (info.references, info.signatures, info.ultimate) == ((), (), True)
    assert (info.nar_size, len(info.nar_hash)) == (120, 64)


async def test_options_reach_the_builders(site: Site) -> None:
    paths = site.write("""
      cores1 = make "cores1" "echo $NIX_BUILD_CORES; echo > $out" { };
      cores2 = make "cores2" "echo $NIX_BUILD_CORES; echo > $out" { };
    """)
    events: list[Event] = []
    async with connect(site.location, env=PATH) as daemon:
        await daemon.set_options(
            keep_going=True, timeout=90, silent=90, cores=3, jobs=1
        )
        await daemon.build(list(paths.values()), events.append)
    assert [e.line for e in events if isinstance(e, LogLine)] == [b"3", b"3"]
    assert max(e.running for e in events if isinstance(e, Progress)) == 1


async def test_a_refused_request_says_why(site: Site) -> None:
    async with connect(site.location, env=PATH) as daemon:
        with pytest.raises(
            DaemonRefused, match=r"/elsewhere.* is not in the Nix store"
        ):
            await daemon.valid(["/elsewhere"])
