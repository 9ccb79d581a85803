"""The badge of a branch: an SVG drawn by hand, and what shields.io's endpoint wants.

It is asked for again at every sight (`no-cache`), and answered with 304 while it is the
same. Sizes follow the badges that everybody knows: 11 px Verdana, 20 px high.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Literal

from aiohttp import hdrs, web
from markupsafe import escape
from pydantic import Field

from ci.models import Build, BuildState, human_seconds
from ci.serve import html, shapes

LABEL = "build-server"
LONGEST = 60
WORDS = {
    BuildState.SUCCEEDED: "passing",
    BuildState.FAILED: "failing",
    BuildState.ERROR: "error",
    BuildState.CANCELLED: "cancelled",
}
# White text on each of them has a contrast of 4.5 or more.
COLOURS = {
    BuildState.SUCCEEDED: "#1a7f37",
    BuildState.FAILED: "#cf222e",
    BuildState.ERROR: "#8250df",
}
GREY = "#57606a"
# Verdana's advance widths at 11 px, roughly.
_NARROW, _WIDE = frozenset("ijlIft.,:;'|!()[]{} /\\-\""), frozenset("mwMWOQ%@—…")

_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" role="img" \
aria-label="{label}: {message}">
<title>{label}: {message}</title>
<rect width="{whole}" height="20" rx="3" fill="#24292f"/>
<path d="M{left} 0h{edge}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{edge}z" fill="{colour}"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="6" y="14" textLength="{label_length}">{label}</text>
<text x="{message_at}" y="14" textLength="{message_length}">{message}</text>
</g>
</svg>
"""


class Badge(shapes.Shape):
    """shields.io's endpoint schema."""

    schemaVersion: Literal[1]
    label: str = Field(description="the branch")
    message: str = Field(description="how it stands, and what its build took")
    color: str


Dress = Callable[[web.Request, Badge], web.Response]


def of_branch(branch: str, last: Build | None) -> Badge:
    """`dev | passing · 2m 58s`; `last` is the newest finished build of the branch."""
    message, colour = "no build", GREY
    if last is not None:
        message = WORDS.get(last.state, str(last.state))
        colour = COLOURS.get(last.state, GREY)
        if last.seconds is not None:
            message += f" · {human_seconds(last.seconds)}"
    return Badge(
        schemaVersion=1,
        label=_short(branch or "no branch"),
        message=message,
        color=colour,
    )


def svg_answer(request: web.Request, badge: Badge) -> web.Response:
    """The picture."""
    return fresh(request, drawn(badge).encode(), "image/svg+xml")


def json_answer(request: web.Request, badge: Badge) -> web.Response:
    """What shields.io asks for."""
    return fresh(request, badge.model_dump_json().encode() + b"\n", "application/json")


def drawn(badge: Badge) -> str:
    """The badge as SVG."""
    left, right = _width(badge.label) + 12, _width(badge.message) + 12
    return _SVG.format(
        whole=left + right,
        left=left,
        edge=right - 3,
        colour=escape(badge.color),
        label=escape(badge.label),
        message=escape(badge.message),
        label_length=left - 12,
        message_at=left + 6,
        message_length=right - 12,
    )


def fresh(request: web.Request, body: bytes, media: str) -> web.Response:
    """The answer, or 304 to who has the same bytes already."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    headers = {hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: f'"{tag}"'}
    held = request.if_none_match or ()
    if any(each.value in (tag, "*") for each in held):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=media, charset="utf-8", headers=headers)


def _short(words: str) -> str:
    """Visible, and no longer than a badge may be."""
    seen = html.visible(words)
    return seen if len(seen) <= LONGEST else seen[: LONGEST - 1] + "…"


def _width(words: str) -> int:
    """About as many pixels as Verdana needs; `textLength` makes it fit exactly."""
    return sum(
        4 if char in _NARROW else 10 if char in _WIDE or ord(char) > 0x2E80 else 7
        for char in words
    )
