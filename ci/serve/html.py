"""Pages for a browser: Jinja's templates, loaded when the first browser comes.

Whatever a template prints is escaped for HTML, and characters that would move text about
(control characters, bidirectional marks, line breaks) come out as escapes: a title may
neither break out of its page nor forge another line of it. Text of several lines is
given as a list of lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web

from ci import __version__
from ci.adapters.host import now_ms
from ci.models import BuildState, human_seconds, rfc3339
from ci.serve import answers, assets, shapes
from ci.serve.answers import Form
from ci.serve.text import SYMBOLS
from ci.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

FORMS: tuple[Form, ...] = ("json", "text", "page")

# No inline script or style, nothing from another host, no frame around us.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
ICONS: Mapping[str, str] = {
    BuildState.QUEUED: "wait",
    BuildState.RUNNING: "run",
    BuildState.SUCCEEDED: "ok",
    BuildState.FAILED: "bad",
    BuildState.ERROR: "bad",
}
JOINER = "\u200d"


@dataclass(frozen=True)
class Page:
    """What a page needs besides its own facts.

    `title` begins with the state's symbol where there is one; `icon` is one of ok, bad,
    run, wait, none. `events`: the address of its news, "" for none; `live`: its facts
    still change, so that it is loaded again where no script does it.
    """

    template: str
    title: str
    context: Mapping[str, Any]
    icon: str = "none"
    events: str = ""
    live: bool = False


async def respond(
    request: web.Request,
    shape: shapes.Shape,
    text: Callable[[], str],
    page: Callable[[], Page],
    default: Form = "json",
) -> web.Response:
    """The same facts as JSON, as text for a terminal, or as a page."""
    form = answers.wanted(request, default, FORMS)
    if form == "json":
        response = answers.json_answer(shape)
    elif form == "text":
        response = answers.text_answer(text())
    else:
        response = await as_page(request, page())
    response.headers[hdrs.VARY] = hdrs.ACCEPT
    return response


async def as_page(request: web.Request, page: Page, status: int = 200) -> web.Response:
    """The page, with the one policy that all of them have."""
    environment, static = await asyncio.to_thread(_loaded)
    body = environment.get_template(page.template).render(
        page.context,
        page=page,
        path=request.path,
        now=now_ms(),
        static=static.url,
        version=__version__,
    )
    return web.Response(
        text=body,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={"Content-Security-Policy": CSP, "Referrer-Policy": "same-origin"},
    )


def visible(text: str) -> str:
    """`text` with what cannot be seen as escapes, but for the joiner of emoji."""
    if text.isprintable():
        return text
    return JOINER.join(printable(part) for part in text.split(JOINER))


def ago(then: int, now: int) -> str:
    """The larger unit of the time between two moments in milliseconds: `6m`, `3d`."""
    return human_seconds(max(0, now - then) / 1000).split()[0]


def _loaded() -> tuple[Environment, assets.Assets]:
    return _environment(), assets.load()


@cache
def _environment() -> Environment:
    """Every template compiled: rendering then touches no disk."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        if isinstance(value, str) and not isinstance(value, Markup):
            return visible(value)
        return value

    environment = Environment(
        loader=PackageLoader("ci.serve"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(symbols=SYMBOLS, icons=ICONS, ago=ago)
    environment.filters.update(took=human_seconds, rfc3339=rfc3339)
    for name in environment.list_templates():
        environment.get_template(name)
    return environment
