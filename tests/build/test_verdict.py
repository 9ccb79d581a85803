"""Only positive evidence writes `failed`; everything else is ours."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from ci.build.verdict import decide, doubted, summarise
from ci.errors import (
    BuildCancelled,
    BuildInterrupted,
    CommitFault,
    CommitVanished,
    DaemonDown,
    DaemonLost,
    DiskFull,
    NetworkDown,
    RemoteDown,
)
from ci.models import BuildState, Target, combine

S = BuildState
ENDED = st.sampled_from([S.SUCCEEDED, S.FAILED, S.ERROR, S.SKIPPED])


@pytest.mark.parametrize(
    ("error", "state", "counted"),
    [
        (CommitFault("x"), S.FAILED, None),
        (BuildCancelled("x"), S.CANCELLED, None),
        (CommitVanished("x"), S.SKIPPED, None),
        (BuildInterrupted("x"), S.ERROR, False),
        (NetworkDown("x"), S.ERROR, False),
        (RemoteDown("x"), S.ERROR, False),
        (DaemonDown("x"), S.ERROR, False),
        (DaemonLost("x"), S.ERROR, True),
        (DiskFull("x"), S.ERROR, True),
        (KeyError("x"), S.ERROR, True),
        (TimeoutError(), S.ERROR, True),
    ],
)
def test_who_is_at_fault(
    error: Exception, state: BuildState, counted: bool | None
) -> None:
    ended = decide(error, [Target("t", S.RUNNING), Target("u", S.SUCCEEDED)])
    assert ended.state is state
    assert (ended.retry.counted if ended.retry else None) == counted
    assert [target.state for target in ended.targets] == [state, S.SUCCEEDED]


@given(st.lists(ENDED, min_size=1))
def test_any_failed_target_fails_the_build_else_any_error_is_an_error(
    states: list[BuildState],
) -> None:
    ended = decide(None, [Target(str(n), s, error="e") for n, s in enumerate(states)])
    if S.FAILED in states:
        assert (ended.state, ended.retry) == (S.FAILED, None)
    elif S.ERROR in states:
        assert ended.state is S.ERROR
        assert ended.retry is not None
    elif S.SUCCEEDED not in states:
        assert ended.state is S.FAILED
        assert "no target can be built here" in ended.summary
    else:
        assert ended.state is combine(states) is S.SUCCEEDED


def test_the_summary_names_the_first_failure() -> None:
    targets = [
        Target("packages.a", S.SUCCEEDED),
        Target("checks.web", S.FAILED, error="expected 200, got 500"),
        Target("checks.x", S.FAILED, error="no"),
    ]
    assert summarise(targets) == "2 of 3 failed: checks.web: expected 200, got 500"
    assert summarise(targets[:1]) == "1 target built"


def test_what_failed_on_a_host_that_was_unwell_is_an_error_in_every_part() -> None:
    """Also in the targets: each failing one would have a status of its own at GitHub."""
    targets = [
        Target("packages.a", S.SUCCEEDED),
        Target("checks.web", S.FAILED, error="expected 200, got 500"),
    ]
    ended = doubted(decide(None, targets), DiskFull("the store was full"))
    assert ended.state is S.ERROR
    assert ended.retry is not None
    assert ended.retry.counted
    assert [target.state for target in ended.targets] == [S.SUCCEEDED, S.ERROR]
    for text in (ended.summary, ended.targets[1].error):
        assert text is not None
        assert text.startswith("the store was full: ")
        assert "expected 200, got 500" in text
    assert doubted(decide(None, targets), RemoteDown("away")).retry == (
        decide(RemoteDown("away"), ()).retry
    )
