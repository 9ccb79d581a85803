"""What a Nix daemon is doing, as typed events. No I/O.

Numbers are those of Nix's src/libutil/logging.hh. Builders can forge texts, phases and
file transfers by printing `@nix {…}`; the daemon drops forged starts of builds. Events
are for people to look at: no verdict may rest on them (remote.py has the one
exception, and why it is safe).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ci.adapters.telling import plain


class LogLine(NamedTuple):
    """One line a builder printed, raw, without its newline; None: of no known build.

    A line of more than 1 MiB comes as several. (A tuple, since there are many.)
    """

    derivation: str | None
    line: bytes


@dataclass(frozen=True, slots=True)
class Started:
    """A builder began; `machine` is the remote builder's address, "" for this host."""

    derivation: str
    machine: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A builder ended, well or not: only the reply tells which.

    Nix 2.8 tells the end of what was asked for only when the whole request ends.
    """

    derivation: str
    machine: str


@dataclass(frozen=True, slots=True)
class Phase:
    """A builder says which phase it is in; forgeable."""

    derivation: str
    name: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts of derivations in this request, as the daemon keeps them."""

    done: int
    expected: int
    running: int
    failed: int


@dataclass(frozen=True, slots=True)
class Substituting:
    """A path is copied from a cache, or between this host and a remote builder."""

    path: str
    cache: str


@dataclass(frozen=True, slots=True)
class Message:
    """A text for people, perhaps with ANSI colours; forgeable.

    `level` is Nix's (0 error, 1 warning, 3 information). The protocol drops the level
    of plain texts: theirs is read off the word in front and good for colours only.
    """

    level: int
    text: str


Event = LogLine | Started | Stopped | Phase | Progress | Substituting | Message
Field = int | bytes


class ActivityKind(IntEnum):
    COPY_PATH = 100
    BUILDS = 104
    BUILD = 105
    SUBSTITUTE = 108
    BUILD_WAITING = 111


class ResultKind(IntEnum):
    BUILD_LOG_LINE = 101
    SET_PHASE = 104
    PROGRESS = 105


class Activities:
    """What the daemon is doing now; makes events of its records."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._emit = on_event
        self._builds: dict[int, Started] = {}
        self._nested: set[int] = set()
        self._substituted: dict[int, bytes] = {}
        self._progress: int | None = None

    def text(self, text: bytes) -> None:
        line = text.decode("utf-8", "replace").rstrip("\n")
        self._emit(Message(_level(line), line))

    def start(
        self, activity: int, level: int, kind: int, text: bytes, fields: list[Field]
    ) -> None:
        match kind, fields:
            case ActivityKind.BUILD, [bytes(path), bytes(machine), *_]:
                self._start_build(activity, _text(path), _text(machine))
            case ActivityKind.BUILDS, _:
                self._progress = activity
            case ActivityKind.SUBSTITUTE, [bytes(path), bytes(cache), *_]:
                self._substituted[activity] = path
                self._emit(Substituting(_text(path), _text(cache)))
            case ActivityKind.COPY_PATH, [bytes(path), bytes(origin), *_]:
                # A substitution contains the copying of its own path.
                if path not in self._substituted.values():
                    self._emit(Substituting(_text(path), _text(origin)))
            case ActivityKind.BUILD_WAITING, _ if text:
                self._emit(Message(level, _text(text)))

    def stop(self, activity: int) -> None:
        self._substituted.pop(activity, None)
        if activity == self._progress:
            self._progress = None
        if build := self._builds.pop(activity, None):
            if activity in self._nested:
                self._nested.discard(activity)
            else:
                self._emit(Stopped(build.derivation, build.machine))

    def result(self, activity: int, kind: int, fields: list[Field]) -> None:
        match kind, fields:
            case ResultKind.BUILD_LOG_LINE, [bytes(line), *_]:
                self.line(activity, line)
            case ResultKind.SET_PHASE, [bytes(name), *_] if activity in self._builds:
                self._emit(Phase(self._builds[activity].derivation, _text(name)))
            case ResultKind.PROGRESS, [
                int(done),
                int(expected),
                int(run),
                int(bad),
                *_,
            ]:
                # Every copied path has progress of its own: only the builds' is told.
                if activity == self._progress:
                    self._emit(Progress(done, expected, run, bad))

    def line(self, activity: int, line: bytes) -> None:
        build = self._builds.get(activity)
        self._emit(LogLine(build.derivation if build else None, line))

    def _start_build(self, activity: int, path: str, machine: str) -> None:
        # A remote build is announced twice: here with its machine and, from there,
        # without one. The second is no build of this host; its log lines count.
        if not machine and any(
            build.derivation == path and build.machine
            for build in self._builds.values()
        ):
            self._nested.add(activity)
        self._builds[activity] = started = Started(path, machine)
        if activity not in self._nested:
            self._emit(started)


def _level(line: str) -> int:
    words = plain(line)
    if words.startswith("error:"):
        return 0
    return 1 if words.startswith("warning:") else 3


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
