"""What a Nix daemon says about each derivation, and what it means for a commit. No I/O.

A status number is the daemon's own finding and the only base of a verdict; texts only
word it for people. Measured with Nix 2.8 and 2.34, whose texts differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from ci.adapters.telling import cut, plain, telling

Verdict = Literal["built", "commit", "host", "dependency", "unsupported"]


class BuildStatus(IntEnum):
    """The daemon's status of one derivation.

    BUILT, SUBSTITUTED, ALREADY_VALID, RESOLVES_TO_ALREADY_VALID: its outputs are there.
    PERMANENT_FAILURE: the builder exited non-zero, was killed, or could not be run.
    INPUT_REJECTED: not for this host: another system, or a missing feature (2.34).
    OUTPUT_REJECTED: output missing, hash mismatch, forbidden reference.
    TRANSIENT_FAILURE: perhaps not its own fault: a fixed-output builder failed (mostly
        for want of the network), or the disk is full.
    CACHED_FAILURE: a permanent failure remembered; only sent by Nix 1.
    TIMED_OUT: it ran or was silent for longer than allowed.
    MISC_FAILURE: none of these, e.g. left out after another failure (2.8).
    DEPENDENCY_FAILED: never begun, since a derivation it needs has failed.
    LOG_LIMIT_EXCEEDED: it printed more than the daemon's own limit allows.
    NOT_DETERMINISTIC: built again, as the daemon is told to, its outputs differed.
    NO_SUBSTITUTERS: a path without a derivation, and no cache has it.
    UNKNOWN: a number that this program does not know; the error text tells which.
    """

    BUILT = 0
    SUBSTITUTED = 1
    ALREADY_VALID = 2
    PERMANENT_FAILURE = 3
    INPUT_REJECTED = 4
    OUTPUT_REJECTED = 5
    TRANSIENT_FAILURE = 6
    CACHED_FAILURE = 7
    TIMED_OUT = 8
    MISC_FAILURE = 9
    DEPENDENCY_FAILED = 10
    LOG_LIMIT_EXCEEDED = 11
    NOT_DETERMINISTIC = 12
    RESOLVES_TO_ALREADY_VALID = 13
    NO_SUBSTITUTERS = 14
    UNKNOWN = 255


@dataclass(frozen=True)
class BuildResult:
    """How one derivation (`path`, a .drv) ended; `error` is the daemon's text, plain.

    `outputs` maps output names to store paths; only success has any. `stopped_at` is when
    its builder ended, in seconds since the epoch; 0 where the daemon does not say.
    """

    path: str
    status: BuildStatus
    error: str
    outputs: Mapping[str, str]
    stopped_at: int = 0


MAX_SENTENCE = 2000
"""Characters of a daemon's line that are looked at."""

MAX_NAME = 60
"""Characters of a derivation's name in front of a hash that must be read in full."""

_VERDICTS: Mapping[BuildStatus, Verdict] = {
    BuildStatus.BUILT: "built",
    BuildStatus.SUBSTITUTED: "built",
    BuildStatus.ALREADY_VALID: "built",
    BuildStatus.RESOLVES_TO_ALREADY_VALID: "built",
    BuildStatus.PERMANENT_FAILURE: "commit",
    BuildStatus.OUTPUT_REJECTED: "commit",
    BuildStatus.TIMED_OUT: "commit",
    BuildStatus.LOG_LIMIT_EXCEEDED: "commit",
    # Nix 1 remembered permanent failures only, never transient ones or time-outs.
    BuildStatus.CACHED_FAILURE: "commit",
    BuildStatus.INPUT_REJECTED: "unsupported",
    BuildStatus.DEPENDENCY_FAILED: "dependency",
}


def verdict(status: BuildStatus) -> Verdict:
    """Whose matter a status is.

    `commit` is positive evidence against the derivation; `dependency` says to look at
    another result (when none explains it, it is the host's: 2.34 has it for a .drv that
    is gone, too), `unsupported` that this host cannot build it; the rest is `host`.
    """
    return _VERDICTS.get(status, "host")


# Sent by the kernel short of memory, or by whoever ends the service: hang-up, interrupt,
# quit, kill, terminate. A builder that breaks dies of others, or exits.
_FROM_OUTSIDE = frozenset({1, 2, 3, 9, 15})
_SIGNAL = re.compile(r"failed due to signal (\d+)")


def whose(result: BuildResult) -> Verdict:
    """Whose matter a result is: its status decides, but for a builder that was killed.

    Nix counts that as the derivation's own failure. The signal is told only in the
    daemon's text; a builder that kills itself to be `host` has failed all the same.
    """
    if result.status is BuildStatus.PERMANENT_FAILURE:
        signal = _SIGNAL.search(_without_log(result.error))
        if signal and int(signal[1]) in _FROM_OUTSIDE:
            return "host"
    return verdict(result.status)


def first_error(
    result: BuildResult, log_tail: Sequence[bytes], *, dependency: str | None = None
) -> str:
    """One line for a person on why a derivation was not built.

    `log_tail` holds its last log lines, oldest first; `dependency` is the .drv path of
    the dependency that failed, which the daemon's text does not tell.
    """
    text = _without_log(plain(result.error))
    match result.status:
        case BuildStatus.DEPENDENCY_FAILED:
            return _dependency(text, dependency)
        case BuildStatus.TIMED_OUT:
            return _timed_out(text, log_tail)
        case BuildStatus.INPUT_REJECTED:
            return _platform(text)
        case BuildStatus.OUTPUT_REJECTED:
            return _rejected(text, result.path)
        case BuildStatus.PERMANENT_FAILURE | BuildStatus.TRANSIENT_FAILURE:
            return _failed(text, log_tail)
    return _sentence(text) or f"Nix status {result.status.value}, without a reason"


def _dependency(text: str, path: str | None) -> str:
    # Nix 2.34 has this status also for a .drv that is not there.
    if "dependenc" not in text:
        return _sentence(text) or "a dependency failed"
    return f"dependency {_short(path)} failed" if path else "a dependency failed"


def _without_log(text: str) -> str:
    """The daemon's own words: what it quotes of the log could be mistaken for them."""
    return re.split(r"\n\s*last \d+ log lines:", text, maxsplit=1, flags=re.I)[0]


def _failed(text: str, log_tail: Sequence[bytes]) -> str:
    if signal := _SIGNAL.search(text):
        return f"killed by signal {signal[1]}"
    if code := re.search(r"failed with exit code (\d+)", text):
        said = telling(_legible(raw) for raw in log_tail)
        return f"builder failed with exit code {code[1]}" + (said and f": {said}")
    said = telling(_legible(raw) for raw in log_tail)
    return _sentence(text) or said or "builder failed"


def _rejected(text: str, path: str) -> str:
    specified = re.search(r"specified:\s*(\S+)", text)
    got = re.search(r"got:\s*(\S+)", text)
    if specified and got:
        name = cut(_short(path).removesuffix(".drv"), MAX_NAME)
        return (
            f'hash mismatch: write hash = "{got[1]}" for {name}; it was {specified[1]}'
        )
    if output := re.search(r"failed to produce output path for output '([^']*)'", text):
        return f"failed to produce output '{output[1]}'"
    return _sentence(text) or "output rejected"


def _platform(text: str) -> str:
    required = re.search(
        r"Required system: '([^']+)'(?: with features \{(.+?)\})?", text
    )
    if not required:
        return _sentence(text) or "not for this host's system or features"
    features = f" with {required[2]}" if required[2] else ""
    return f"needs a {required[1]} machine{features}"


def _timed_out(text: str, log_tail: Sequence[bytes]) -> str:
    """With the last line, whatever it is: there the builder hangs."""
    found = re.search(r"timed out after \d+ seconds(?: of silence)?", text)
    said = found[0] if found else _sentence(text) or "timed out"
    lines = (" ".join(plain(_legible(raw)).split()) for raw in reversed(log_tail))
    last = next(filter(None, lines), "")
    return cut(f"{said}; last line: {last}" if last else said)


def _legible(raw: bytes) -> str:
    # Where no builder could be run, Nix 2.8 logs its error as it is serialised: the
    # words stand between lengths and zeros.
    if raw.startswith(b"\5\0\0\0\0\0\0\0Error\0") and b"executing '" in raw:
        raw = raw[raw.index(b"executing '") :]
    return raw.decode("utf-8", "replace")


def _sentence(text: str) -> str:
    """The daemon's reason in one line, store paths without directory and hash."""
    reason = re.search(r"Reason:\s*(.+)", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = reason[1] if reason else "".join(lines[:1])
    if line.endswith(":"):
        line = f"{line} {', '.join(lines[1:])}"
    line = line[:MAX_SENTENCE].removesuffix(";").removesuffix(".")
    line = re.sub(r"^error:\s*", "", line)
    return cut(re.sub(r"/[^\s'\"]*/[0-9a-z]{32}-", "", line))


def _short(path: str) -> str:
    """`bad.drv` of `/nix/store/<hash>-bad.drv`."""
    return re.sub(r"^[0-9a-z]{32}-", "", path.rpartition("/")[2])
