"""Which line of a log people are told: recorded from tools as they fail."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ci.adapters.telling import LOOKED_AT, MAX_QUOTE, telling

RECORDED = Path(__file__).resolve().parents[1] / "samples/tools"

SAID = {
    "pytest": "FAILED test_web.py::test_status - AssertionError: expected 200, got 500",
    "unittest": "AssertionError: 500 != 200",
    "gcc": "a.c:1:20: error: ‘x’ undeclared (first use in this function)",
    "go": "--- FAIL: TestStatus (0.00s) x_test.go:3: expected 200, got 500",
    "rust-test": "thread 'status' (PID) panicked at t.rs:1:22: "
    "assertion `left == right` failed: wrong status",
    "rustc": "error[E0425]: cannot find value `x` in this scope",
    "node": "AssertionError [ERR_ASSERTION]: expected 200, got 500",
    "ld": "l.c:(.text+0xa): undefined reference to `f'",
    "cmake": "CMake Error at CMakeLists.txt:3 (find_package): "
    'By not providing "FindFoo.cmake" in CMAKE_MODULE_PATH this project has',
    "shellcheck": "^-- SC2086 (info): Double quote to prevent globbing and word splitting.",
    "ruff": "F401 [*] `os` imported but unused",
    "mypy": "b.py:1: error: Incompatible types in assignment "
    '(expression has type "str", variable has type "int") [assignment]',
    "git-diff": "diff --git a/flake.nix b/flake.nix",
    "java": 'Exception in thread "main" java.lang.IllegalStateException: expected 200',
}


def test_every_recording_has_its_line() -> None:
    assert {path.stem for path in RECORDED.glob("*.txt")} == SAID.keys()


@pytest.mark.parametrize("tool", SAID)
def test_the_first_error_is_told_whatever_follows(tool: str) -> None:
    lines = (RECORDED / f"{tool}.txt").read_text().splitlines()
    assert telling(lines) == SAID[tool]
    assert (
        telling(["a line", *lines, "make: *** [Makefile:2: check] Error 1"])
        == (SAID[tool])
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], ""),
        (["building", "it broke", "", "======"], "it broke"),
        (["fatal: not a git repository", "gave up"], "fatal: not a git repository"),
        (["ERROR: one", "ERROR: two"], "ERROR: one"),
        (["error handling is on", "checked 3 files", "it broke"], "it broke"),
        (["test x ok", "1 failed, 3 passed in 0.31s"], "test x ok"),
        (["1 failed in 3s"], "1 failed in 3s"),
        (["it broke", "For full logs, run 'nix log x'"], "it broke"),
        (["it broke", "  at run (app.js:3:1)", "  at main.js:1:1"], "it broke"),
        (["ok 1", "not ok 2 - adds", "# failed"], "not ok 2 - adds"),
        (["\x1b[31mError: \x1b[0mred\r\u0007"], "Error: red"),
        (
            # nixos/lib/test-driver/src/test_driver/driver.py of nixpkgs
            [
                "!!! Traceback (most recent call last):",
                '!!!   File "<string>", line 2, in <module>',
                '!!!     machine.succeed("false")',
                "!!! ",
                "!!! RequestedAssertionFailed: command `false` failed (exit code 1)",
                "cleanup",
                "kill machine (pid 9)",
                "(finished: cleanup, in 0.11 seconds)",
                "kill vlan (pid 7)",
            ],
            "RequestedAssertionFailed: command `false` failed (exit code 1)",
        ),
        (["!!! it broke", "cleanup", "kill vlan (pid 7)"], "it broke"),
        (
            ["src/Main.hs:3:8: error: [GHC-83865]", "  • Couldn't match Int", "  |"],
            "src/Main.hs:3:8: error: [GHC-83865] • Couldn't match Int",
        ),
        (
            ["src/a.ts(3,5): error TS2322: no string", "ERROR: `npm build` failed"],
            "src/a.ts(3,5): error TS2322: no string",
        ),
        (
            ["../meson.build:5:0: ERROR: no glib", "A full log can be found at x"],
            "../meson.build:5:0: ERROR: no glib",
        ),
        (
            [
                "pkgs.buildEnv error: two given paths contain a conflicting subpath:",
                "  `/nix/store/a/bin/x' and",
                "  `/nix/store/b/bin/x'",
                "hint: this may be caused by two different versions",
            ],
            "pkgs.buildEnv error: two given paths contain a conflicting subpath: "
            "`/nix/store/a/bin/x' and",
        ),
        (["diff --git a/x b/x", "-a", "+b", "error: not so"], "error: not so"),
        (["error: first", *["later"] * LOOKED_AT], "later"),
    ],
)
def test_the_line_that_tells(lines: list[str], said: str) -> None:
    assert telling(lines) == said


@given(st.lists(st.text(max_size=300), max_size=60))
def test_whatever_is_printed_becomes_one_short_line(lines: list[str]) -> None:
    said = telling(lines)
    assert len(said) <= MAX_QUOTE
    assert not {"\n", "\r", "\x1b", "\0"} & set(said)
