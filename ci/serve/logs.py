"""Logs: the last lines as JSON, the whole as raw bytes, and following what runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from ci.adapters import logs as files
from ci.errors import RequestError
from ci.history import builds as history, logs as rows, paths
from ci.models import Build, BuildState, Target
from ci.serve import shapes
from ci.serve.answers import either
from ci.serve.builds import find_build
from ci.serve.follow import Attempt
from ci.serve.lines import of_target, with_times
from ci.serve.parameters import LogQuery, LogsQuery, build_number, query
from ci.serve.service import Service, service_of
from ci.serve.stream import send, stored

NOTHING_RAN = "no build has run yet\n"
NOT_BEGUN = "queued, no log yet\n"


@dataclass(frozen=True)
class Log:
    """The log of one attempt, which may be still to come; sizes are bytes."""

    state: BuildState
    attempt: Attempt
    size: int

    def headers(self, start: int) -> dict[str, str]:
        """What a reader needs to go on later with `?offset=`."""
        return {
            "X-Build-State": str(self.state),
            "X-Log-Attempt": str(self.attempt.number),
            "X-Log-Offset": str(start),
            "X-Log-Size": str(self.size),
        }


async def last_lines(request: web.Request) -> web.StreamResponse:
    """`?lines=` of the running build's log, the last build's, or that of `?build=`.

    With `?follow=1` the lines come as text, and then all that follows until the attempt
    ends.
    """
    service, asked = service_of(request), query(request, LogsQuery)
    if asked.build is not None:
        build: Build | None = await find_build(service, asked.build)
    else:
        build = await service.database.read(history.last_running_or_finished)
    if build is None:
        return either(request, shapes.Logs(logs=[], build=None), lambda: NOTHING_RAN)
    log = await find_log(service, build, None, follow=asked.follow)
    if asked.follow:
        start = await asyncio.to_thread(
            files.tail_offset, log.attempt.path, asked.lines
        )
        chunks = service.watches.follow(log.attempt, start)
        return await send(request, chunks, log.headers(start))
    lines = (
        await asyncio.to_thread(files.tail, log.attempt.path, asked.lines)
        if log.size
        else []
    )
    return either(
        request,
        shapes.Logs(logs=lines, build=build.number),
        lambda: "".join(line + "\n" for line in lines) or NOT_BEGUN,
    )


async def raw_log(request: web.Request, asked: LogQuery) -> web.StreamResponse:
    """Bytes as the build wrote them.

    `?tail=` and `?offset=` count bytes, `?attempt=` looks at an earlier try, `?target=`
    keeps the lines of one target's own derivation (its error when it wrote none),
    `?follow=1` goes on until the attempt ends, `?times=1` puts its time before each line.
    Empty while the build waits.
    """
    service = service_of(request)
    build = await find_build(service, build_number(request))
    target = find_target(build, asked.target) if asked.target else None
    log = await find_log(service, build, asked.attempt, follow=asked.follow)
    start = _start(asked, log.size)
    length = None
    if asked.follow:
        chunks = service.watches.follow(log.attempt, start)
    else:
        chunks, length = stored(log.attempt.path, start, log.size), log.size - start
    if asked.times:
        chunks, length = with_times(chunks, log.attempt.path, start), None
    if target is not None and not is_command(service, build):
        chunks, length = of_target(chunks, target, timed=asked.times), None
    return await send(request, chunks, log.headers(start), length)


async def find_log(
    service: Service, build: Build, attempt: int | None, *, follow: bool
) -> Log:
    """The log asked for; a follower of a waiting build wants the attempt to come.

    Raises RequestError: 404 for an attempt that never was, 410 for a removed log.
    """
    if attempt is not None and attempt > build.attempt:
        raise RequestError(
            404,
            f"build {build.number} has had {build.attempt} attempts, not {attempt}",
            {"build": build.number, "attempt": attempt},
        )
    to_come = follow and attempt is None and build.state is BuildState.QUEUED
    wanted = build.attempt + 1 if to_come else attempt or build.attempt
    path = paths.log_path(service.settings.state_dir, build.number, wanted)
    size = await asyncio.to_thread(_size, path)
    over = build.state.final or wanted < build.attempt
    if size is None and over and wanted > 0:
        raise await _gone(service, build.number, wanted)
    return Log(build.state, Attempt(build.number, wanted, path), size or 0)


async def _gone(service: Service, build: int, attempt: int) -> RequestError:
    """410, with the reason if it was us who removed the log."""
    why = await service.database.read(rows.why_removed, build, attempt)
    # On a full disk a log may be missing from the start.
    what = f"was removed {why}" if why else "was removed, or never written"
    return RequestError(
        410,
        f"the log of build {build}, attempt {attempt}, {what}",
        {"build": build, "attempt": attempt},
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _start(asked: LogQuery, size: int) -> int:
    if asked.tail is not None and asked.offset is not None:
        raise RequestError(400, "tail and offset exclude each other; give one of them")
    if asked.target is not None and (asked.tail or asked.offset):
        raise RequestError(400, "target takes the whole log; leave out tail and offset")
    if asked.offset is not None and asked.offset > size:
        raise RequestError(
            416,
            f"the log ends at byte {size}, before offset {asked.offset}",
            {"offset": asked.offset, "size": size},
        )
    return asked.offset or max(0, size - (asked.tail or size))


def find_target(build: Build, name: str) -> Target:
    for target in build.targets:
        if target.name == name:
            return target
    names = [target.name for target in build.targets]
    raise RequestError(
        404,
        f"build {build.number} has no target {name}",
        {"build": build.number, "target": name, "targets": names},
    )


def is_command(service: Service, build: Build) -> bool:
    """Whether one command wrote the whole log, which then is its target's."""
    return any(
        repository.builder == "command"
        for repository in service.settings.repositories
        if repository.name == build.repo
    )
