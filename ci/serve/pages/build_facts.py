"""What the page of a build says: gathered once, for HTML, text and JSON alike."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from ci.adapters.host import now_ms
from ci.config import Repository, Settings
from ci.errors import RequestError
from ci.history import attempts, builds, context, paths, queue
from ci.history.context import Around
from ci.history.queue import Place
from ci.models import Build, BuildState, derivations_built, human_seconds, rfc3339
from ci.serve import shapes
from ci.serve.pages import excerpt, warned
from ci.serve.pages.excerpt import Excerpt, Wanted
from ci.serve.pages.reproduce import commands, compare_url
from ci.serve.pages.warned import Warned
from ci.serve.parameters import no_build
from ci.serve.service import Service

MOST_ERRORS = 20
"""Targets whose lines are looked for; the others have their error in one line."""


class Step(shapes.Shape):
    """One step of the last attempt, and how long it took."""

    name: str
    seconds: float


class Derivations(shapes.Shape):
    """How far the building is."""

    done: int
    total: int


class FirstError(shapes.Shape):
    """The lines of the log that say why a target failed, the telling one with its number."""

    target: str = Field(description="empty: the build failed before it had targets")
    line: int | None = Field(
        description="from 1 on, in the whole log of the last attempt; null: not in it"
    )
    lines: list[str] = Field(description="at most 12, without marks and colours")


class BuildWarning(shapes.Shape):
    """What the evaluation or Nix warned of in the last attempt."""

    text: str = Field(description="its first line, without `warning:`")
    count: int
    line: int = Field(description="of the first, from 1 on, in the whole log")


class Attempt(shapes.Shape):
    """One try of a build."""

    number: int
    outcome: str | None = Field(description="null: it runs, or was cut short")
    reason: str
    seconds: float | None
    log: str | None = Field(description="address of its log; null: removed")


class BuildPage(shapes.Build):
    """One build, with what its page says besides."""

    last_good: int | None = Field(description="newest good build of an older commit")
    broken_since: int | None = Field(
        description="first failed build after that, when this one has failed"
    )
    newest: bool = Field(description="of the newest commit of its branch")
    older: int | None = Field(
        description="the build of the commit before, on its branch"
    )
    newer: int | None
    expected_seconds: float | None = Field(
        description="the median of the branch's last good builds before it"
    )
    waits: str | None = Field(description="why it waits, while it is queued")
    waited_seconds: float | None = Field(description="from queued to begun")
    derivations: Derivations | None = Field(description="while it builds")
    steps: list[Step]
    errors: list[FirstError]
    warnings: list[BuildWarning] = Field(
        description="at most 20 different ones; a command's are not known"
    )
    reproduce: list[str] = Field(description="commands that do the same elsewhere")
    fetchable: str | None = Field(
        description="what the binary cache said; null: it was not asked"
    )
    compare: str | None = Field(description="the changes since the last good build")
    log: str = Field(description="address of the last attempt's log")
    log_removed: str | None = Field(description="when and why that log has gone")
    attempts: list[Attempt] = Field(description="the last 20, the newest first")


@dataclass(frozen=True)
class Facts:
    """A build with its neighbours at the moment `now`, in milliseconds."""

    build: Build
    shape: BuildPage
    around: Around
    excerpts: tuple[Excerpt, ...]
    now: int

    @property
    def verdict(self) -> str:
        """`#412 failed in 3m 12s`."""
        number, build = f"#{self.build.number}", self.build
        took = "" if build.seconds is None else human_seconds(build.seconds)
        match build.state:
            case BuildState.QUEUED:
                again = (
                    f" again, for attempt {build.attempt + 1}" if build.attempt else ""
                )
                return f"{number} is queued{again}"
            case BuildState.RUNNING:
                return f"{number} is running, for {human_seconds(self.elapsed)}"
            case BuildState.ERROR:
                after = f" after {took}" if took else ""
                return f"{number} error{after}: not your commit"
            case BuildState.CANCELLED | BuildState.SKIPPED:
                return f"{number} {build.state}" + (f" after {took}" if took else "")
        return f"{number} {build.state}" + (f" in {took}" if took else "")

    @property
    def elapsed(self) -> float:
        """Seconds since it began; 0 before."""
        begun = self.build.started_at
        return 0.0 if begun is None else max(0, self.now - begun) / 1000

    @property
    def progress(self) -> str:
        """What a running build does, how far it is, how long it will take; else empty."""
        if self.build.state is not BuildState.RUNNING:
            return ""
        doing = self.build.summary or "beginning"
        typical = self.shape.expected_seconds
        if typical is None:
            return doing
        usual = f"median of the last good builds: {human_seconds(typical)}"
        left = typical - self.elapsed
        if left < 0:
            return f"{doing} · longer than usual ({usual})"
        return f"{doing} · ≈ {human_seconds(left)} left ({usual})"

    @property
    def times(self) -> list[Step]:
        """Where the time went, the waiting included."""
        shape = self.shape
        parts = list(shape.steps)
        if not parts and shape.seconds is not None:
            parts = [Step(name="the last attempt", seconds=shape.seconds)]
        elif not parts and self.build.state is BuildState.RUNNING:
            parts = [Step(name="until now", seconds=round(self.elapsed, 3))]
        if shape.waited_seconds is not None:
            parts.insert(0, Step(name="waited", seconds=shape.waited_seconds))
        return parts


@dataclass(frozen=True)
class _Rows:
    build: Build
    around: Around
    tries: tuple[attempts.Attempt, ...]
    place: Place | None


async def gather(service: Service, number: int) -> Facts:
    """Everything about build `number`; RequestError 404 names those next to it."""
    now = now_ms()
    rows = await service.database.read(_read, number, now)
    if not isinstance(rows, _Rows):
        raise _missing(number, rows)
    build, settings = rows.build, service.settings
    repository = configured(settings, build.repo)
    wanted = _wanted(build, repository)
    log = None
    if build.attempt:
        log = paths.log_path(settings.state_dir, build.number, build.attempt)
    excerpts = await excerpt.find(log, wanted)
    command = repository is not None and repository.builder == "command"
    warnings = () if command else await warned.find(log)
    removed = await asyncio.to_thread(_removed, log, rows)
    waits = _waits(service, rows.place, now)
    shape = _shape(service, rows, excerpts, warnings, removed, waits, now)
    return Facts(build, shape, rows.around, excerpts, now)


def configured(settings: Settings, repo: str) -> Repository | None:
    """The repository as it is configured now; None for one that no longer is."""
    return next((each for each in settings.repositories if each.name == repo), None)


def _read(connection: sqlite3.Connection, number: int, now: int) -> _Rows | list[int]:
    """The rows, or the numbers next to one that is not there."""
    build = builds.get(connection, number)
    if build is None:
        return context.nearest(connection, number)
    return _Rows(
        build,
        context.around(connection, number),
        tuple(attempts.last(connection, number)),
        queue.place(connection, number, now),
    )


def _missing(number: int, near: Sequence[int]) -> RequestError:
    error = no_build(number)
    if not near:
        return error
    named = " and ".join(f"build {each}" for each in near)
    return RequestError(
        404,
        f"{error.message}; nearest: {named}",
        {"build": number, "nearest": list(near)},
    )


def _wanted(build: Build, repository: Repository | None) -> list[Wanted]:
    """What to look for in the log: each failed target, or what ended the whole build."""
    whole = repository is not None and repository.builder == "command"
    failed = [each for each in build.targets if each.state is BuildState.FAILED]
    if build.state is BuildState.ERROR or (
        build.state is BuildState.FAILED
        and all(each.error == build.summary for each in failed)
    ):
        return [Wanted("", build.summary, None, whole)] if build.summary else []
    if build.state not in (BuildState.FAILED, BuildState.RUNNING):
        return []
    return [
        Wanted(each.name, each.error or "failed", each.derivation, whole)
        for each in failed[:MOST_ERRORS]
    ]


def _removed(log: Path | None, rows: _Rows) -> str | None:
    """When and why the last attempt's log has gone; None while it is there, or to come."""
    if log is None or not rows.build.state.final or log.exists():
        return None
    last = rows.tries[0] if rows.tries else None
    known = last.log_removed if last and last.number == rows.build.attempt else None
    return f"removed {known}" if known else "removed, or never written"


def held(service: Service) -> str:
    """Why no build at all may begin now; "" when one may."""
    if service.settings.build.parallel == 0:
        return "build.parallel = 0: this server builds nothing"
    return service.waits()


def _waits(service: Service, place: Place | None, now: int) -> str | None:
    """Why a build waits: what holds all of them back first, then its own reasons."""
    if place is None:
        return None
    if reason := held(service):
        return reason
    if place.not_before:
        left = human_seconds((place.not_before - now) / 1000)
        return f"retry at {rfc3339(place.not_before)}, in {left}"
    if place.before:
        return f"{_count(place.before, 'build')} before it"
    most = service.settings.build.parallel
    if place.running >= most:
        runs = "runs" if place.running == 1 else "run"
        return (
            f"it is next: {_count(place.running, 'build')} {runs}, and no more than "
            f"build.parallel = {most} at once"
        )
    return "it is next"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shape(
    service: Service,
    rows: _Rows,
    excerpts: Sequence[Excerpt],
    warnings: Sequence[Warned],
    removed: str | None,
    waits: str | None,
    now: int,
) -> BuildPage:
    build, around = rows.build, rows.around
    repository = configured(service.settings, build.repo)
    plain = service.shape(build)
    asked = service.settings.cache is not None and build.state is BuildState.SUCCEEDED
    return BuildPage(
        **dict(plain),
        last_good=around.last_good.number if around.last_good else None,
        broken_since=around.broken_since.number if around.broken_since else None,
        newest=around.newer is None,
        older=around.older,
        newer=around.newer,
        expected_seconds=shapes.rounded(around.typical),
        waits=waits,
        waited_seconds=_waited(build),
        derivations=_derivations(build),
        steps=_steps(rows, now),
        errors=[
            FirstError(target=each.target, line=each.line, lines=list(each.lines))
            for each in excerpts
        ],
        warnings=[
            BuildWarning(text=each.text, count=each.count, line=each.line)
            for each in warnings
        ],
        reproduce=commands(build, repository),
        fetchable=build.summary.partition(" · ")[2] or None if asked else None,
        compare=compare_url(repository, around.last_good, build),
        log=f"{plain.url}/log",
        log_removed=removed,
        attempts=[_attempt(each, plain.url) for each in rows.tries],
    )


def _waited(build: Build) -> float | None:
    begun = build.started_at
    return None if begun is None else max(0, begun - build.queued_at) / 1000


def _derivations(build: Build) -> Derivations | None:
    if build.state is not BuildState.RUNNING:
        return None
    counted = derivations_built(build.summary)
    return Derivations(done=counted[0], total=counted[1]) if counted else None


def _steps(rows: _Rows, now: int) -> list[Step]:
    """The steps of the last attempt; each lasts until the next, the last until the end."""
    if not rows.tries or rows.build.state is BuildState.QUEUED:
        return []
    return [
        Step(name=name, seconds=seconds)
        for name, seconds in rows.tries[0].step_seconds(now)
    ]


def _attempt(each: attempts.Attempt, url: str) -> Attempt:
    gone = each.log_removed is not None
    return Attempt(
        number=each.number,
        outcome=each.outcome,
        reason=each.reason,
        seconds=shapes.rounded(each.seconds),
        log=None if gone else f"{url}/log?attempt={each.number}",
    )
