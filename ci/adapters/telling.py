"""The one line of a log's end that tells why a program failed. Pure, and for words only.

What a program prints decides no verdict: it could print anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_QUOTE = 200
"""Characters of a program's line that go into a one-line error."""

LOOKED_AT = 50
"""Lines before the end among which the first error is looked for."""

NIXOS_TEST = "!!! "
"""How NixOS's test driver marks the lines that say why a test failed."""

_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

# How compilers, interpreters and test runners begin the line that says what is wrong.
_ERROR = re.compile(
    r"(?:[^\s:]+(?::\d+){0,2}: )?(?:fatal )?error(?::|\[\w+\]:) \S"
    r"|(?:[^\s:]+(?::\d+){1,2}: )?(?:Error|ERROR|fatal|Fatal|FATAL|panic|Failure): \S"
    r"|[^\s:]+\(\d+(?:,\d+)?\): error \w+: \S"
    r"|FAILED:? [^(\s]|--- FAIL: "
    r"|(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)(?: \[\w+\])?(?:: \S|$)"
    r"|(?:[A-Za-z_]\w*\.)*[A-Z][a-z]\w*Failed: \S|Test \".*\" failed with error: "
    r"|Exception in thread |thread '.*' .*panicked at |not ok \d"
    r"|\S+: undefined reference to |[A-Z]{1,4}\d{3,4} \[\*\] "
    r"|CMake Error|pkgs\.buildEnv error: |\^-+ SC\d+ \("
)
# Go, Rust, CMake and GHC say where on one line, and what on the next.
_GOES_ON = re.compile(r"^--- FAIL: |:$|error: \[[\w-]+\]$")
# What a formatter says that was to change nothing: which file, and then all of it.
_CHANGED = re.compile(r"diff --git a/")
# What build tools say once something has failed, rules, and steps of stack traces.
_NOISE = re.compile(
    r"make(?:\[\d+\])?: \*\*\* |ninja: build stopped|note: |For full logs, run"
    r"|clean(?:up|ing up)$|\(finished: |kill \w+ \(pid \d+\)|test script finished in "
    r"|\w+: QEMU: terminated|Found \d+ errors?\b|\[\*\] \d+ fixable "
    r"|last \d+ log lines:|error: test failed, to rerun |npm ERR! A complete log"
    r"|[=\-_*# ]*\d+ (?:failed|passed|errors?)\b.* in [\d.]+ ?m?s\b.*"
    r"|FAILED \((?:failures|errors)=|at [^ ]+ ?\(.*\)$|at \S+:\d+:\d+$"
    # What only Nix itself can know: a builder that says so is not Nix.
    r"|error: (?:hash mismatch in fixed-output derivation|builder for '|Cannot build ')"
    r'|File ".*", line \d+|Traceback \(most recent|\W*$',
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """`text` without ANSI sequences and control characters; newline and tab stay."""
    return _CONTROL.sub("", _ANSI.sub("", text))


def telling(lines: Iterable[str]) -> str:
    """The first line that names an error, else the last that says something.

    Of the last LOOKED_AT lines (oldest first), in one line of at most MAX_QUOTE
    characters; "" when none says anything.
    """
    joined = (" ".join(plain(line).split()) for line in lines)
    spoken = [said for line in joined if (said := line.removeprefix(NIXOS_TEST))]
    spoken = spoken[-LOOKED_AT:]
    worth = [line for line in spoken if not _NOISE.match(line)]
    for index, line in enumerate(worth):
        if _ERROR.match(line):
            goes_on = _GOES_ON.search(line) and index + 1 < len(worth)
            return cut(f"{line} {worth[index + 1]}" if goes_on else line)
    changed = next((line for line in worth if _CHANGED.match(line)), None)
    return cut(changed or (worth or spoken or [""])[-1])


def cut(line: str, most: int = MAX_QUOTE) -> str:
    """At most `most` characters, the last of them `…` where some were left out."""
    return line if len(line) <= most else line[: most - 1] + "…"
