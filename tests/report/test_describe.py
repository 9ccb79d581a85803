"""The one line on GitHub: the answer in 140 characters, whatever a build left behind."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from ci.models import Build, BuildState, StatusState, Target
from ci.report.describe import (
    LIMIT,
    clip,
    describe,
    describe_past,
    describe_target,
    fit,
    matches,
)
from tests.fakes import github_contract

NOW = 1_800_000_000_000
WEB_TEST = Target("checks.web-test", BuildState.FAILED, 12.0, "expected 200, got 500")
GOOD = tuple(
    Target(f"packages.p{index}", BuildState.SUCCEEDED, 1.0) for index in range(13)
)
BUILD = Build(
    number=412,
    repo="Bullish-Design/nix-terminal",
    branch="dev",
    sha="6dcb09b5b57875f334f61aebed695e2e4193db5e",
    title="Serve pages",
    author="alice",
    state=BuildState.FAILED,
    cause="push",
    attempt=1,
    queued_at=NOW - 200_000,
    started_at=NOW - 192_000,
    finished_at=NOW,
    seconds=192.4,
    summary="1 of 14 targets failed",
    targets=(*GOOD, WEB_TEST),
)
EARLIER = replace(BUILD, number=398, sha="77aa012" + "0" * 33)
RUNNING = replace(BUILD, state=BuildState.RUNNING, finished_at=None, seconds=None)
QUEUED = replace(RUNNING, state=BuildState.QUEUED, attempt=0, started_at=None)
ENDED = replace(BUILD, targets=())


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (
            BUILD,
            "✗ checks.web-test: expected 200, got 500 · 1 of 14 failed · 3m 12s "
            "· since 77aa012",
        ),
        (
            replace(ENDED, summary="error: undefined variable 'foo'"),
            "✗ error: undefined variable 'foo' · 3m 12s · since 77aa012",
        ),
        (
            replace(BUILD, state=BuildState.SUCCEEDED, targets=GOOD),
            "✓ 13 targets · 3m 12s",
        ),
        (
            replace(BUILD, state=BuildState.SUCCEEDED, targets=GOOD[:1]),
            "✓ 1 target · 3m 12s",
        ),
        (replace(ENDED, state=BuildState.SUCCEEDED), "✓ built · 3m 12s"),
        (QUEUED, "queued"),
        (replace(QUEUED, attempt=2), "queued · attempt 3"),
        (RUNNING, "building"),
        (
            replace(RUNNING, attempt=2, queued_at=NOW - 500_000),
            "building · attempt 2 · waited 5m 8s",
        ),
        (
            replace(ENDED, state=BuildState.ERROR, summary="the disk is full"),
            "⚠ not your commit: the disk is full · 3m 12s",
        ),
        (
            replace(ENDED, state=BuildState.CANCELLED, summary="cancelled by alice"),
            "cancelled by alice",
        ),
        (
            replace(ENDED, state=BuildState.CANCELLED, summary="superseded by #413"),
            "cancelled: superseded by #413",
        ),
        (
            replace(ENDED, state=BuildState.SKIPPED, summary="[skip ci]"),
            "skipped: [skip ci]",
        ),
        (replace(ENDED, state=BuildState.SKIPPED, summary=""), "skipped"),
    ],
)
def test_each_state_has_its_line(build: Build, line: str) -> None:
    assert describe(build, broken_since=EARLIER, now_ms=NOW) == line


def test_the_commit_that_broke_the_branch_is_not_named_to_itself() -> None:
    assert "since" not in describe(BUILD, broken_since=BUILD, now_ms=NOW)
    assert "since" not in describe(BUILD, broken_since=None, now_ms=NOW)


def test_a_verdict_that_github_gets_late_says_so() -> None:
    line = describe(BUILD, broken_since=None, now_ms=NOW + 7_500_000)
    assert line.endswith(" · 3m 12s · told 2h 5m late")
    assert "late" not in describe(BUILD, broken_since=None, now_ms=NOW + 500_000)


def test_a_long_error_gives_way_to_the_numbers() -> None:
    error = "expected " + "x" * 300
    build = replace(BUILD, targets=(*GOOD, replace(WEB_TEST, error=error)))
    line = describe(build, broken_since=EARLIER, now_ms=NOW)
    assert len(line) == LIMIT
    assert line.startswith("✗ checks.web-test: expected xxx")
    assert line.endswith("x… · 1 of 14 failed · 3m 12s · since 77aa012")


SRI = "sha256-VD34n+yFscKA5b57xqM+MSA1A81u2zCEMS3k21qbQ2w="
MISMATCH = (
    f"dependency {'n' * 60} failed: hash mismatch: "
    f'write hash = "{SRI}" for {"n" * 60}; it was {SRI}'
)


@pytest.mark.parametrize(
    ("error", "essence"),
    [
        ("builder failed with exit code 2: no such file", "no such file"),
        ("exit code 2: no such file", "no such file"),
        ("exit code 2", "exit code 2"),
        (
            "dependency openssl-3.0 failed: builder failed with exit code 2: no such file",
            "dependency openssl-3.0 failed: no such file",
        ),
    ],
)
def test_an_exit_code_gives_way_to_words(error: str, essence: str) -> None:
    build = replace(BUILD, targets=(replace(WEB_TEST, error=error),))
    line = describe_target(build, WEB_TEST.name, StatusState.FAILURE)
    assert line == f"✗ {essence} · 12s"


def test_a_hash_to_paste_comes_before_everything_else() -> None:
    wrong = replace(WEB_TEST, error=MISMATCH)
    build = replace(BUILD, targets=(*GOOD, wrong))
    line = describe_target(build, wrong.name, StatusState.FAILURE)
    assert line.startswith(f'✗ hash mismatch: write hash = "{SRI}" for nnn')
    line = describe(build, broken_since=EARLIER, now_ms=NOW)
    assert line.startswith(f'✗ checks.web-test: hash mismatch: write hash = "{SRI}"')
    assert line.endswith("… · 1 of 14 failed · 3m 12s")
    long = replace(wrong, name="checks." + "w" * 100)
    line = describe(replace(BUILD, targets=(long,)), broken_since=None, now_ms=NOW)
    assert line.endswith(": hash mismatch: write hash =…")


@pytest.mark.parametrize(
    ("name", "state", "line"),
    [
        ("checks.web-test", StatusState.FAILURE, "✗ expected 200, got 500 · 12s"),
        ("packages.p1", StatusState.SUCCESS, "✓ builds · 1s"),
        ("packages.gone", StatusState.SUCCESS, "✓ not part of this build any more"),
        ("packages.gone", StatusState.FAILURE, "✗ failed"),
    ],
)
def test_a_target_speaks_for_itself(name: str, state: StatusState, line: str) -> None:
    assert describe_target(BUILD, name, state) == line


def test_a_verdict_that_was_left_behind_is_not_told_as_todays() -> None:
    again = replace(QUEUED, attempt=1)
    assert not matches(again, StatusState.FAILURE)
    assert matches(again, StatusState.PENDING)
    assert matches(replace(ENDED, state=BuildState.SKIPPED), StatusState.ERROR)
    line = describe_past(again, StatusState.FAILURE)
    assert line == "✗ failure · being built again, attempt 2"


CHARACTERS = st.characters() | st.sampled_from(
    "é\u0301\u200d\ufe0f🐛👩\x1b[31m\n\u202e·…"
)
TEXTS = st.text(CHARACTERS, max_size=400)


@given(
    state=st.sampled_from(BuildState),
    summary=TEXTS,
    name=TEXTS,
    error=st.none() | TEXTS,
    seconds=st.none() | st.floats(0, 1e9),
    attempt=st.integers(0, 10**6),
    now=st.integers(0, 10**13),
)
def test_github_takes_every_line(
    state: BuildState,
    summary: str,
    name: str,
    error: str | None,
    seconds: float | None,
    attempt: int,
    now: int,
) -> None:
    target = Target(name, BuildState.FAILED, seconds, error)
    build = replace(
        BUILD,
        state=state,
        summary=summary,
        seconds=seconds,
        attempt=attempt,
        targets=(target, target),
    )
    lines = [
        describe(build, broken_since=EARLIER, now_ms=now),
        describe_target(build, name, StatusState.FAILURE),
        describe_past(build, StatusState.SUCCESS),
    ]
    for line in lines:
        assert 0 < len(line) <= LIMIT
        assert "\x1b" not in line
        assert "\u202e" not in line
        assert line == line.strip()
        assert github_contract.broken_limits("0" * 40, {"description": line}) == []


@settings(max_examples=500)
@given(
    st.text("a x\u0301\u0308\u0bbf\u200d", min_size=3, max_size=30), st.integers(1, 12)
)
def test_a_cut_is_between_characters(text: str, limit: int) -> None:
    cut = clip(text, limit)
    assert len(cut) <= limit
    if cut == text:
        return
    assert cut.endswith("…")
    kept = cut.removesuffix("…")
    assert text.startswith(kept)
    following = text[len(kept)]
    assert kept == "" or unicodedata.category(following) not in ("Mn", "Mc", "Me")
    assert not kept.endswith("\u200d")


def test_the_colours_of_a_log_are_no_part_of_the_answer() -> None:
    error = "\x1b[1;31merror:\x1b[0m\tno \x1b]8;;http://x\x07link\x1b]8;;\x07\nhere"
    assert fit(error, []) == "error: no link here"


def test_details_never_push_the_answer_out() -> None:
    line = fit("✗ the answer", ["d" * 60, "e" * 60, "f" * 60])
    assert line == "✗ the answer · " + "d" * 60
