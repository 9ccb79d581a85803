"""BUILD as the server tells it, checked before use: a stranger may be answering.

Every string is printable on a terminal; `raw` is the answer as it came, for `--json`
and for questions about the same branch.
"""

from __future__ import annotations

import re

from ci.client.text import one_line, plain_lines, printable, timestamp

FINAL = frozenset({"succeeded", "failed", "error", "cancelled", "skipped"})


SHORTEST = 4
"""A shorter line may be a part of any message."""
TELLING = 12
"""A shorter part of a message may be a part of any line."""


class Malformed(ValueError):
    """An answer is not what a build-server answers."""


class Target:
    """One flake attribute of a build; `error` is text of several lines, as it came.

    `own_name` is what the server calls it, `name` what we may print.
    """

    def __init__(self, raw: object) -> None:
        entry = mapping(raw)
        self.own_name = text(entry, "name")
        self.name = printable(self.own_name)
        self.state = printable(text(entry, "state"))
        self.seconds = number(entry, "seconds")
        self.error = optional_text(entry, "error") or ""

    @property
    def final(self) -> bool:
        return self.state in FINAL


class Excerpt:
    """The lines of a log that say why a target failed, most of them before the message.

    `line` is where that is in the log, from 1 on; None when the log does not hold it.
    `target` is empty when the build failed before it had targets.
    """

    def __init__(self, raw: object) -> None:
        entry = mapping(raw)
        self.target = text(entry, "target")
        self.line = optional_whole(entry, "line")
        said = sequence(entry, "lines")
        self.lines = [
            row for each in said if isinstance(each, str) for row in plain_lines(each)
        ]

    def telling(self, error: str, rows: int) -> list[str]:
        """So many of the lines, with the one that `error` repeats; else none.

        `error` is what the server says of the target. It says more than the lines do when
        they are the server's own, or Nix's of an evaluation: place, near names, the hash.
        """
        said = one_line(error)
        at = -1
        for index, line in enumerate(self.lines):
            bare = one_line(line).removeprefix("error: ")
            held = bare in said and len(bare) >= SHORTEST
            if held or any(part in bare for part in _parts(said)):
                at = index
                if line.startswith("error:") and line != self.lines[-1]:
                    # An evaluation says behind its message where it was.
                    return []
        if at < 0 or self.lines[at].startswith("build-server: "):
            return []
        return self.lines[max(0, at + 1 - rows) : at + 1]


class Build:
    """One commit of one repository; times are seconds since the epoch or None.

    What an older server does not tell is None or empty; `detailed` when it told what is
    around the build, which no list of builds has.
    """

    def __init__(self, raw: object) -> None:
        entry = mapping(raw)
        self.raw = entry
        self.number = whole(entry, "number")
        self.repo = printable(text(entry, "repo"))
        self.sha = printable(text(entry, "sha"))
        self.title = printable(text(entry, "title"))
        self.author = printable(text(entry, "author"))
        self.state = printable(text(entry, "state"))
        self.cause = printable(text(entry, "cause"))
        self.attempt = whole(entry, "attempt")
        self.seconds = number(entry, "seconds")
        self.summary = text(entry, "summary")
        self.url = printable(text(entry, "url"))
        # Older servers do not pin.
        self.pinned = entry.get("pinned") is True
        self.branch = printable(optional_text(entry, "branch") or "")
        self.times = {
            key: printable(optional_text(entry, key) or "")
            for key in ("queued_at", "started_at", "finished_at")
        }
        self.targets = [Target(each) for each in sequence(entry, "targets")]
        self.detailed = "last_good" in entry
        self.last_good = optional_whole(entry, "last_good")
        self.broken_since = optional_whole(entry, "broken_since")
        self.expected = number(entry, "expected_seconds")
        self.waits = one_line(optional_text(entry, "waits") or "")
        told = sequence(entry, "errors") if "errors" in entry else []
        self.excerpts = [Excerpt(each) for each in told]

    @property
    def final(self) -> bool:
        return self.state in FINAL

    @property
    def ended(self) -> list[Target]:
        """The targets that have ended; of a build that waits again, none has."""
        if self.state == "queued":
            return []
        return [each for each in self.targets if each.final]

    @property
    def failing(self) -> list[Target]:
        """The targets that explain the verdict, the commit's faults first."""
        bad = [each for each in self.targets if each.state in ("failed", "error")]
        return sorted(bad, key=lambda each: each.state != "failed")

    @property
    def queued_at(self) -> float | None:
        return timestamp(self.times["queued_at"])

    @property
    def last_news(self) -> str:
        """When the state last changed, RFC 3339."""
        times = self.times
        return times["finished_at"] or times["started_at"] or times["queued_at"]

    def excerpt(self, target: Target | None) -> Excerpt | None:
        """What the log says of what failed; None: nothing. No target: of the whole."""
        name = "" if target is None else target.own_name
        for each in self.excerpts:
            if each.target == name and each.lines and each.line is not None:
                return each
        return None

    def own(self, key: str) -> str | None:
        """A string of the answer as it came."""
        return optional_text(self.raw, key)


class Repository:
    """What the server builds: its name, where from, and the branches it watches."""

    def __init__(self, raw: object) -> None:
        entry = mapping(raw)
        self.name = text(entry, "name")
        self.url = text(entry, "url")
        told = sequence(entry, "branches") if "branches" in entry else []
        self.branches = [each for each in told if isinstance(each, str)]


def _parts(message: str) -> list[str]:
    """The message, and what is left behind each of its colons."""
    parts = [message]
    while len(rest := parts[-1].partition(": ")[2]) >= TELLING:
        parts.append(rest)
    return [part.removesuffix("…") for part in parts if len(part) >= TELLING]


def mapping(value: object) -> dict[str, object]:
    """A JSON object; raises Malformed."""
    if not isinstance(value, dict):
        raise Malformed("not an object")
    return value


def sequence(entry: dict[str, object], key: str) -> list[object]:
    value = entry.get(key)
    if not isinstance(value, list):
        raise Malformed(f"{key} is not a list")
    return value


def text(entry: dict[str, object], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key} is not a string")
    return value


def optional_text(entry: dict[str, object], key: str) -> str | None:
    return None if entry.get(key) is None else text(entry, key)


def whole(entry: dict[str, object], key: str) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Malformed(f"{key} is not a whole number")
    return value


def optional_whole(entry: dict[str, object], key: str) -> int | None:
    return None if entry.get(key) is None else whole(entry, key)


def number(entry: dict[str, object], key: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise Malformed(f"{key} is not a number")
    return float(value) if abs(value) < 1e12 else None


def is_sha(text: str) -> bool:
    """Whether this may be a commit: 7 or more hexadecimal digits."""
    return re.fullmatch(r"[0-9a-fA-F]{7,64}", text) is not None
