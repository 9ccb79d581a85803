"""Verdicts by status alone, and one clear line per kind of failure."""

from __future__ import annotations

import pytest

from ci.adapters.nix_daemon import (
    BuildResult,
    BuildStatus,
    first_error,
    plain,
    verdict,
    whose,
)

STORE = "/nix/store/"
HASH = "0123456789abcdfghijklmnpqrsvwxyz-"


def failed(
    status: BuildStatus, error: str, *tail: bytes, dependency: str | None = None
) -> str:
    result = BuildResult(f"{STORE}{HASH}a.drv", status, error, {})
    return first_error(result, tail, dependency=dependency)


def test_only_evidence_against_a_derivation_is_the_commits_fault() -> None:
    assert {status.name: verdict(status) for status in BuildStatus} == {
        "BUILT": "built",
        "SUBSTITUTED": "built",
        "ALREADY_VALID": "built",
        "RESOLVES_TO_ALREADY_VALID": "built",
        "PERMANENT_FAILURE": "commit",
        "OUTPUT_REJECTED": "commit",
        "CACHED_FAILURE": "commit",
        "TIMED_OUT": "commit",
        "LOG_LIMIT_EXCEEDED": "commit",
        "INPUT_REJECTED": "unsupported",
        "DEPENDENCY_FAILED": "dependency",
        "TRANSIENT_FAILURE": "host",
        "MISC_FAILURE": "host",
        "NOT_DETERMINISTIC": "host",
        "NO_SUBSTITUTERS": "host",
        "UNKNOWN": "host",
    }


@pytest.mark.parametrize(
    "text",
    [
        "builder for '{path}' failed due to signal {number} (Killed)",
        "Cannot build '{path}'.\nReason: builder failed due to signal {number} (X).\n"
        "Output paths:\n  /nix/store/x",
    ],
    ids=["2.8", "2.34"],
)
def test_a_builder_that_was_ended_from_outside_is_no_evidence(text: str) -> None:
    path = f"{STORE}{HASH}a.drv"

    def of(number: int) -> str:
        error = text.format(path=path, number=number)
        return whose(BuildResult(path, BuildStatus.PERMANENT_FAILURE, error, {}))

    assert {of(number) for number in (1, 2, 3, 9, 15)} == {"host"}
    # Its own: illegal instruction, trap, abort, bus error, division, invalid memory.
    assert {of(number) for number in (4, 5, 6, 7, 8, 11)} == {"commit"}


def test_what_a_builder_prints_does_not_make_it_a_victim() -> None:
    for error in (
        "builder for 'a.drv' failed with exit code 1;\n"
        "last 10 log lines:\n> failed due to signal 9 (Killed)",
        "Cannot build 'a.drv'.\nReason: builder failed with exit code 1.\n"
        "Last 2 log lines:\n> failed due to signal 9 (Killed)",
    ):
        result = BuildResult("a.drv", BuildStatus.PERMANENT_FAILURE, error, {})
        assert whose(result) == "commit"
    for status in BuildStatus:
        assert whose(BuildResult("a.drv", status, "", {})) == verdict(status)


# Texts that the builds of test_nix_daemon.py do not bring about, from Nix 2.8 and 2.34.
@pytest.mark.parametrize(
    ("status", "error", "line"),
    [
        (
            BuildStatus.INPUT_REJECTED,
            f"Cannot build '{STORE}{HASH}a.drv'.\nReason: platform mismatch\n"
            "Required system: 'aarch64-linux'\nCurrent system: 'x86_64-linux'",
            "needs a aarch64-linux machine",
        ),
        (
            BuildStatus.INPUT_REJECTED,
            f"Cannot build '{STORE}{HASH}a.drv'.\nReason: local builds are disabled "
            "(max-jobs = 0)",
            "local builds are disabled (max-jobs = 0)",
        ),
        (
            BuildStatus.MISC_FAILURE,
            f"cannot build missing derivation '{STORE}{HASH}a.drv'",
            "cannot build missing derivation 'a.drv'",
        ),
        (
            BuildStatus.DEPENDENCY_FAILED,
            f"failed to obtain derivation of '{STORE}{HASH}a.drv'",
            "failed to obtain derivation of 'a.drv'",
        ),
        (
            BuildStatus.LOG_LIMIT_EXCEEDED,
            f"{STORE}{HASH}a.drv killed after writing more than 9 bytes of log output",
            "a.drv killed after writing more than 9 bytes of log output",
        ),
        (
            BuildStatus.PERMANENT_FAILURE,
            "builder for 'a.drv' failed with exit code 1;\nlast 1 log lines:\n"
            "> failed due to signal 5",
            "builder failed with exit code 1",
        ),
        (BuildStatus.NOT_DETERMINISTIC, "", "Nix status 12, without a reason"),
        (BuildStatus.TIMED_OUT, "", "timed out"),
        (BuildStatus.OUTPUT_REJECTED, "", "output rejected"),
    ],
)
def test_texts_of_both_versions_become_one_line(
    status: BuildStatus, error: str, line: str
) -> None:
    assert failed(status, error) == line


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (
            [b"E  expected 1", b"", b"make: *** [Makefile:3: check] Error 1"],
            "E expected 1",
        ),
        ([b"first", b"\x1b[31mlast\x1b[0m \t line\r", b"======"], "last line"),
        ([b"make: *** [all] Error 1"], "make: *** [all] Error 1"),
        ([b"\xff\xfe broken \x00 utf-8"], "\ufffd\ufffd broken utf-8"),
        ([b"x" * 300], "x" * 199 + "…"),
    ],
)
def test_the_last_line_that_says_something_is_quoted(
    tail: list[bytes], said: str
) -> None:
    text = "builder for 'a.drv' failed with exit code 2"
    line = failed(BuildStatus.PERMANENT_FAILURE, text, *tail)
    assert line == f"builder failed with exit code 2: {said}"


def test_a_failed_dependency_is_named_when_it_is_known() -> None:
    text = "1 dependencies of derivation 'a.drv' failed to build"
    status = BuildStatus.DEPENDENCY_FAILED
    assert failed(status, text) == "a dependency failed"
    known = failed(status, text, dependency=f"{STORE}{HASH}openssl-3.0.drv")
    assert known == "dependency openssl-3.0.drv failed"


def test_plain_text_has_no_escapes_and_keeps_its_lines() -> None:
    dressed = (
        "\x1b[1;31mred\x1b[0m\x1b]8;;http://x\x07link\x1b]8;;\x07\tnul\0\nnext\x1bM"
    )
    assert plain(dressed) == "redlink\tnul\nnext"
