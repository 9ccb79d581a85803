"""Answers as JSON, plain text or a page: the path's suffix decides, then `Accept`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from aiohttp import hdrs, web

from ci.serve import shapes

Form = Literal["json", "text", "page"]

MEDIA_TYPES: Mapping[Form, str] = {
    "json": "application/json",
    "text": "text/plain",
    "page": "text/html",
}
NO_PAGE: tuple[Form, ...] = ("json", "text")
PLAIN_TEXT = "text/plain; charset=utf-8"
SUFFIXES: Mapping[str, Form] = {".json": "json", ".txt": "text"}

HEADERS: Mapping[str, str] = {
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer the headers that it has not set itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    # aiohttp puts its own and Python's version there.
    response.headers[hdrs.SERVER] = "build-server"


def wanted(
    request: web.Request, default: Form = "json", forms: Sequence[Form] = NO_PAGE
) -> Form:
    """Which of `forms` the caller reads best; `default` when it does not care."""
    for suffix, form in SUFFIXES.items():
        if request.path.endswith(suffix):
            return form
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, []))
    quality = {form: _quality(accept, MEDIA_TYPES[form]) for form in forms}
    best = max(quality.values())
    if best == 0 or quality[default] == best:
        return default
    return max(quality, key=lambda form: quality[form])


def json_answer(shape: shapes.Shape, status: int = 200) -> web.Response:
    """One shape as JSON, with the newline that a terminal likes."""
    return web.Response(
        body=shape.model_dump_json().encode() + b"\n",
        status=status,
        content_type="application/json",
        charset="utf-8",
    )


def text_answer(text: str, status: int = 200) -> web.Response:
    """Plain text that no browser takes for anything else."""
    return web.Response(
        body=text.encode(errors="replace"),
        status=status,
        content_type="text/plain",
        charset="utf-8",
    )


def either(
    request: web.Request,
    shape: shapes.Shape,
    text: Callable[[], str],
    default: Form = "json",
) -> web.Response:
    """The shape, or its rendering as text, whichever the caller wants."""
    form = wanted(request, default)
    response = json_answer(shape) if form == "json" else text_answer(text())
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


def error_answer(
    status: int, sentence: str, detail: Mapping[str, Any] | None = None
) -> web.Response:
    """The one shape of every answer from 400 on."""
    shape = shapes.Error(error=sentence, status=status, detail=dict(detail or {}))
    return json_answer(shape, status)


def _quality(accept: str, media: str) -> float:
    """How much `accept` likes `media`: the most specific range that matches decides."""
    ranges: dict[str, float] = {}
    for part in accept.split(","):
        name, _, parameters = part.partition(";")
        found = re.search(r"\bq=(0(\.\d{0,3})?|1(\.0{0,3})?)\s*(;|$)", parameters)
        ranges.setdefault(name.strip().lower(), float(found[1]) if found else 1.0)
    family = media.partition("/")[0] + "/*"
    for name in (media, family, "*/*"):
        if name in ranges:
            return ranges[name]
    return 0.0
