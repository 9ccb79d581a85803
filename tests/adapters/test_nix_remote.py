"""Builds on another machine, played by a second store; its failures have their reasons."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ci.adapters.nix_daemon import (
    BuildResult,
    BuildStatus,
    Event,
    LogLine,
    Message,
    Started,
    Stopped,
    connect,
    first_error,
)
from ci.adapters.nix_daemon.remote import RemoteFailures, is_fixed_output
from tests.adapters.nix_cases import PATH, direct, instantiate, name_of
from tests.fakes.nix_stores import NixStore

SHELL = Path("/usr/bin/bash-static")
FATES = """
  above = make "above" "echo above; read line < $below; echo $line > $out" { inherit below; };
  below = make "below" "echo below; echo text > $out" { };
  broken = make "broken" "echo about to fail; exit 7" { };
  fetch = make "fetch" "exit 7" fixed;
  hash = make "hash" "echo wrong > $out" fixed;
  missing = make "missing" "true" { };
"""
DRV = "/nix/store/a.drv"
FAR = "ssh-ng://far"
FAILED = BuildResult(DRV, BuildStatus.MISC_FAILURE, "exit code 1", {})


@pytest.fixture
def with_far_machine(fresh_nix: NixStore) -> NixStore:
    """A store whose only builder is another store, in a directory of its own."""
    if os.geteuid() != 0 or not SHELL.exists():
        pytest.skip(f"a second store needs root and {SHELL} (package bash-static)")
    far = f"local?root={fresh_nix.root}/far&store={fresh_nix.root}/store"
    configuration = fresh_nix.root / "etc/nix.conf"
    text = configuration.read_text().replace("sandbox = false", "sandbox = true")
    system = fresh_nix.run(
        "eval", "--impure", "--raw", "--expr", "builtins.currentSystem"
    )
    configuration.write_text(
        f"{text}sandbox-paths = /bin/sh={SHELL}\nbuilders = {far} {system} - 9 1\n"
    )
    return fresh_nix


async def test_far_builds_are_told_once_and_fail_for_their_own_reasons(
    with_far_machine: NixStore,
) -> None:
    store = with_far_machine
    paths = await asyncio.to_thread(instantiate, store, FATES)
    events: list[Event] = []
    async with connect(direct(store), env=PATH) as daemon:
        await daemon.set_options(keep_going=True, timeout=100, silent=100, jobs=0)
        results = await daemon.build(list(paths.values()), events.append)
    assert {name: results[path].status for name, path in paths.items()} == {
        "above": BuildStatus.BUILT,
        "below": BuildStatus.BUILT,
        "broken": BuildStatus.PERMANENT_FAILURE,
        "fetch": BuildStatus.TRANSIENT_FAILURE,
        "hash": BuildStatus.OUTPUT_REJECTED,
        "missing": BuildStatus.OUTPUT_REJECTED,
    }
    line = first_error(results[paths["broken"]], [b"about to fail"])
    assert line == "builder failed with exit code 7: about to fail"
    for kind in (Started, Stopped):
        told = [event for event in events if isinstance(event, kind)]
        assert {event.derivation for event in told} == set(paths.values())
        assert len(told) == len(paths)
        assert all("root=" in event.machine for event in told)
    said = {
        name_of(event.derivation or ""): event.line
        for event in events
        if isinstance(event, LogLine)
    }
    assert said == {"above": b"above", "below": b"below", "broken": b"about to fail"}


def explained(*events: Event, fixed: bool = False) -> BuildResult:
    failures = RemoteFailures(lambda event: None)
    for event in events:
        failures(event)
    return failures.explain({DRV: FAILED}, lambda path: fixed)[DRV]


def report(reason: str, machine: str = FAR) -> Message:
    return Message(
        0, f"\x1b[31;1merror:\x1b[0m build of '{DRV}' on '{machine}' failed: {reason}"
    )


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("builder for 'a' failed with exit code 2", BuildStatus.PERMANENT_FAILURE),
        (
            "Cannot build 'a'.\nReason: builder failed due to signal 9",
            BuildStatus.PERMANENT_FAILURE,
        ),
        ("hash mismatch in fixed-output derivation 'a'", BuildStatus.OUTPUT_REJECTED),
        ("building of 'a' timed out after 2 seconds", BuildStatus.TIMED_OUT),
        ("unexpected end-of-file", BuildStatus.MISC_FAILURE),
    ],
)
def test_a_far_failure_is_named_by_what_its_machine_said(
    reason: str, status: BuildStatus
) -> None:
    result = explained(Started(DRV, FAR), report(reason))
    assert (result.status, result.error) == (status, reason)


def test_only_the_machine_that_built_it_is_believed() -> None:
    told = report("builder for 'a' failed with exit code 2")
    assert explained(told) == FAILED
    assert explained(Started(DRV, ""), told) == FAILED
    assert explained(Started(DRV, "ssh-ng://other"), told) == FAILED
    done = BuildResult(DRV, BuildStatus.BUILT, "", {"out": "/nix/store/a"})
    failures = RemoteFailures(lambda event: None)
    failures(Started(DRV, FAR))
    failures(told)
    assert failures.explain({DRV: done}, lambda path: False) == {DRV: done}


def test_fixed_outputs_are_told_from_others() -> None:
    fixed = b'Derive([("out","/nix/store/a","r:sha256","00ff")],[],[],"x","",[],[])'
    assert is_fixed_output(fixed)
    assert not is_fixed_output(b'Derive([("out","/nix/store/a","","")],[],[],"x"')
    assert not is_fixed_output(b'Derive([("out","","r:sha256","")],[],[],"x"')
