"""BUILD as the server tells it, checked before use: a stranger may be answering.

Every string is printable on a terminal; `raw` is the answer as it came, for `--json`
and for questions about the same branch.
"""

from __future__ import annotations

import re

from ci.client.text import printable, timestamp

FINAL = frozenset({"succeeded", "failed", "error", "cancelled", "skipped"})


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


class Build:
    """One commit of one repository; times are seconds since the epoch or None."""

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

    @property
    def final(self) -> bool:
        return self.state in FINAL

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

    def own(self, key: str) -> str | None:
        """A string of the answer as it came."""
        return optional_text(self.raw, key)


class Repository:
    """What the server builds: its name, and where from."""

    def __init__(self, raw: object) -> None:
        entry = mapping(raw)
        self.name = text(entry, "name")
        self.url = text(entry, "url")


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
