"""The log of a build: as a page, as JSON, as it was written, and as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Annotated

from aiohttp import hdrs, web
from markupsafe import Markup
from pydantic import Field, StringConstraints

from ci.adapters.logs import stamp
from ci.errors import RequestError
from ci.history import paths, timeline
from ci.models import Build, BuildState, Target, derivation_name
from ci.serve import html, logs
from ci.serve.answers import json_answer, wanted
from ci.serve.builds import find_build
from ci.serve.follow import Attempt
from ci.serve.html import Page
from ci.serve.pages import log_file, log_page, log_search
from ci.serve.pages.log_file import Lines, Part
from ci.serve.pages.log_follow import Follower, LogNews
from ci.serve.pages.log_page import Shown
from ci.serve.pages.log_search import Found
from ci.serve.pages.log_sheet import Sheet
from ci.serve.parameters import LogQuery, Number, build_number, query
from ci.serve.service import Service, service_of
from ci.serve.shapes import Shape
from ci.serve.stream import Chunks, send
from ci.serve.text import SYMBOLS

JSON_LINES = 10_000
"""One answer as JSON has no more lines; `next` says where it goes on."""
JSON_BYTES = 8 << 20
# Stands where the lines come: nothing that is escaped can look like it.
_BODY = Markup("<the-lines/>")

Text = Annotated[str, StringConstraints(max_length=255)]


class LogPageQuery(LogQuery):
    q: Text | None = Field(None, description="only lines with this text, in any case")
    from_: Number | None = Field(
        None, alias="from", description="the first line wanted, from 1 on"
    )
    to: Number | None = Field(None, description="the last line wanted")


class LogLine(Shape):
    """One line. `derivation` is who wrote it; null: the server, a command."""

    n: int = Field(description="its number in the whole log, from 1 on")
    derivation: str | None
    text: str = Field(
        description="without the mark of its derivation; may hold escapes"
    )
    time: str | None = Field(
        description="with ?times=1: when its first byte was written, RFC 3339 in UTC to a "
        "tenth of a second; null: not known"
    )


class LogLines(Shape):
    """Lines of the log of one attempt."""

    build: int
    attempt: int = Field(description="0: none has begun")
    state: BuildState
    lines: list[LogLine]
    next: int | None = Field(description="give it as ?from= for more; null: no more")


async def show_log(request: web.Request) -> web.StreamResponse:
    """A page for a browser, `.json`; else, as ever, the bytes as the build wrote them."""
    asked = query(request, LogPageQuery)
    chosen = asked.q is not None or asked.from_ is not None or asked.to is not None
    as_json = request.path.endswith(".json")
    # A page has no times: whoever asks for them gets text.
    as_page = (
        not (as_json or asked.times)
        and wanted(request, "text", ("text", "page")) == "page"
    )
    bytewise = asked.follow or asked.tail is not None or asked.offset is not None
    if bytewise and (chosen or as_json):
        raise RequestError(
            400, "follow, tail and offset are for the raw log: leave out from, to and q"
        )
    if bytewise or not (as_json or as_page or chosen):
        response = await logs.raw_log(request, asked)
    else:
        shown = await _find(request, asked)
        if as_json:
            response = await _as_json(shown, asked.q)
        elif as_page:
            response = await _as_page(request, shown, asked.q)
        else:
            response = await _as_text(request, shown, asked.q)
    return response


async def _find(request: web.Request, asked: LogPageQuery) -> Shown:
    """What is asked for; RequestError 404 and 410 as of the raw log."""
    service = service_of(request)
    build = await find_build(service, build_number(request))
    target = logs.find_target(build, asked.target) if asked.target else None
    log = await logs.find_log(service, build, asked.attempt, follow=False)
    number = log.attempt.number
    chosen = {
        "target": asked.target,
        "attempt": asked.attempt,
        "from": asked.from_,
        "to": asked.to,
    }
    shown = Shown(
        build=build,
        attempt=number,
        part=None,
        target=target,
        stays=tuple(await service.database.read(timeline.stays, build.number, number)),
        path=f"/builds/{build.number}/log",
        asked={key: str(it) for key, it in chosen.items() if it is not None},
        marked=not logs.is_command(service, build),
    )
    name = _name(target) if shown.marked else None
    if not log.size or (name is None and target is not None and shown.marked):
        return shown
    end = log.size
    if shown.running:
        end = await asyncio.to_thread(log_file.whole_lines, log.attempt.path, end)
    part = Part(
        log.attempt.path, end, name, asked.from_ or 1, asked.to, timed=asked.times
    )
    return replace(shown, part=part)


def _name(target: Target | None) -> str | None:
    return derivation_name(target.derivation) if target and target.derivation else None


async def _as_page(
    request: web.Request, shown: Shown, q: str | None
) -> web.StreamResponse:
    found = await _search(shown, q)
    build = shown.build
    waits = build.state is BuildState.QUEUED and shown.attempt == build.attempt
    whole = found is None and not shown.ranged
    title = f"{SYMBOLS[build.state]} #{build.number} log"
    page = Page(
        "log.html",
        f"{title} {shown.target.name}" if shown.target else title,
        {
            "shown": shown,
            "q": q or "",
            "found": found,
            "most": log_search.MOST,
            "flat": shown.flat,
            "follows": shown.running and whole,
            "stream": _stream(shown, follow=shown.running and whole),
            "waits": waits,
            "body": _BODY,
        },
        icon=html.ICONS.get(build.state, "none"),
        live=whole and (waits or shown.running),
    )
    frame = await html.as_page(request, page)
    frame.headers[hdrs.VARY] = hdrs.ACCEPT
    if found is not None:
        return frame
    before, _, after = (frame.text or "").partition(_BODY)
    headers = {**frame.headers, hdrs.CONTENT_TYPE: "text/html; charset=utf-8"}
    headers.pop(hdrs.CONTENT_LENGTH, None)
    return await send(request, _framed(before, shown, after), headers)


async def _framed(before: str, shown: Shown, after: str) -> Chunks:
    yield before.encode()
    async for piece in _in_thread(partial(log_page.body, shown)):
        yield piece
    yield after.encode()


def _stream(shown: Shown, *, follow: bool) -> str:
    """The address of the build's news, with the lines that are still to come."""
    stream = replace(shown, path=f"/builds/{shown.build.number}/events", asked={})
    if not follow:
        return stream.url()
    end = shown.part.end if shown.part else 0
    target = shown.target.name if shown.target else None
    return stream.url(log="1", attempt=shown.attempt, offset=end, target=target)


async def _search(shown: Shown, q: str | None) -> Found | None:
    if not q:
        return None
    if shown.part is None:
        return Found((), 0)
    return await asyncio.to_thread(
        log_search.search, shown.part, q, shown.bad, marked=shown.marked
    )


async def _as_json(shown: Shown, q: str | None) -> web.Response:
    found = await _search(shown, q)
    if found is not None:
        lines = [
            LogLine(
                n=hit.number,
                derivation=hit.derivation or None,
                text=hit.before + hit.text + hit.after,
                time=_time(hit.time),
            )
            for hit in found.hits
        ]
        following = None
    else:
        lines, following = await asyncio.to_thread(_some, shown)
    answer = LogLines(
        build=shown.build.number,
        attempt=shown.attempt,
        state=shown.build.state,
        lines=lines,
        next=following,
    )
    return await asyncio.to_thread(json_answer, answer)


def _time(moment: int | None) -> str | None:
    return None if moment is None else stamp(moment)


def _some(shown: Shown) -> tuple[list[LogLine], int | None]:
    """As many lines as one answer holds, and the number of the next."""
    lines: list[LogLine] = []
    size = 0
    for piece in shown.part.lines() if shown.part else ():
        data = piece.data.split(b"\n")
        times = piece.times or repeat(None)
        for number, line, time in zip(piece.numbers, data, times, strict=False):
            if len(lines) == JSON_LINES or size > JSON_BYTES:
                return lines, number
            size += len(line)
            name, text = log_search.split(
                line.decode("utf-8", "replace"), marked=shown.marked
            )
            lines.append(
                LogLine(n=number, derivation=name or None, text=text, time=_time(time))
            )
    return lines, None


async def _as_text(
    request: web.Request, shown: Shown, q: str | None
) -> web.StreamResponse:
    """Lines as they were written; hits with their numbers in front, as of `grep -n`.

    Their times, where they were asked for, stand before that.
    """
    found = await _search(shown, q)
    timed = shown.part is not None and shown.part.timed
    if found is not None:
        text = "".join(
            f"{f'{stamp(hit.time)} ' if timed else ''}"
            f"{hit.number}:{hit.derivation and hit.derivation + '> '}"
            f"{hit.before}{hit.text}{hit.after}\n"
            for hit in found.hits
        )
        return await send(request, _once(text.encode(errors="replace")), {})
    part = shown.part

    def pieces() -> Iterator[bytes]:
        return (_text(piece) for piece in part.lines()) if part else iter(())

    return await send(request, _in_thread(pieces), {})


def _text(lines: Lines) -> bytes:
    if not lines.times:
        return lines.data + b"\n"
    data = lines.data.split(b"\n")
    return b"".join(
        stamp(time).encode() + b" " + line + b"\n"
        for time, line in zip(lines.times, data, strict=True)
    )


async def _once(data: bytes) -> Chunks:
    yield data


async def _in_thread(make: Callable[[], Iterator[bytes]]) -> Chunks:
    """What `make` gives, made in a thread piece by piece: nobody waits meanwhile."""
    pieces = await asyncio.to_thread(make)
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:
            yield piece


async def log_events(
    service: Service, build: Build, attempt: int, offset: int, target: str | None
) -> AsyncGenerator[LogNews, None]:
    """The lines of an attempt from byte `offset` on, until it ends; a tick's at a time.

    `offset` is where a line begins: that of a page, or of news that came before. The
    attempt may be still to come. Raises RequestError 404 for a target that is none.
    """
    path = paths.log_path(service.settings.state_dir, build.number, attempt)
    marked = not logs.is_command(service, build)
    sheet = Sheet(f"/builds/{build.number}/log.txt", marked=marked)
    only = _name(logs.find_target(build, target)) if target and marked else None
    follower = await asyncio.to_thread(Follower, path, offset, sheet, only)
    chunks = service.watches.follow(Attempt(build.number, attempt, path), offset)
    async with aclosing(chunks):
        async for chunk in chunks:
            if target and marked and only is None:
                # Which derivation a target is, its evaluation says.
                build = await find_build(service, build.number)
                only = follower.only = _name(logs.find_target(build, target))
            news = await asyncio.to_thread(follower.take, chunk)
            if news.html and (only or not (target and marked)):
                yield news
    news = follower.rest()
    if news.html and (only or not (target and marked)):
        yield news
