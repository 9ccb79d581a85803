"""`/help`: what every state, key, address and exit code means."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Mapping

from aiohttp import web
from pydantic import Field

from ci.models import BuildState, status_state
from ci.serve import html, shapes, text
from ci.serve.about import OPENAPI
from ci.serve.answers import SUFFIXES
from ci.serve.parameters import NoQuery, query
from ci.serve.route import Answer, Route

MEANINGS: Mapping[BuildState, str] = {
    BuildState.QUEUED: "it waits for its turn, or for a retry",
    BuildState.RUNNING: "it is fetched, evaluated or built now",
    BuildState.SUCCEEDED: "every target is built, and can be fetched from the cache if "
    "there is one",
    BuildState.FAILED: "the commit's fault: evaluation, a builder, a hash, a time limit, "
    "or no target matches",
    BuildState.ERROR: "not your commit: network, disk, the Nix daemon or the host; it was "
    "tried again first",
    BuildState.CANCELLED: "somebody cancelled it, or a newer commit did",
    BuildState.SKIPPED: "it was never meant to be built: over the limit of a push, pushed "
    "away, or [skip ci]",
}
KEYS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("j", "k"), "the next row, the row before"),
    (("Enter",), "open the row"),
    (("h", "l"), "the older build, the newer build of the branch"),
    (("g g", "G"), "the top, the end of the page"),
    (("f",), "follow the log, or stop following"),
    (("n", "p"), "the next error, the error before"),
    (("/",), "search"),
    (("R",), "retry"),
    (("?",), "this page"),
)
EXITS: tuple[tuple[int, str], ...] = (
    (0, "ok"),
    (1, "the build failed"),
    (2, "usage"),
    (3, "cancelled or skipped"),
    (4, "not allowed"),
    (5, "no such build, branch, …"),
    (6, "server unreachable"),
    (7, "error, not the commit's fault"),
    (8, "queued or running"),
    (130, "detached; the build goes on"),
)
"""Those of the client, which tells them in `--help`; a test compares the two."""

INDEX = {"/index": "/"}
"""The page whose twins cannot have its own name."""


class HelpState(shapes.Shape):
    """One state of a build or of a target."""

    state: BuildState
    symbol: str
    meaning: str
    github: str | None = Field(description="the commit status; null: none is posted")


class HelpKey(shapes.Shape):
    """Keys that belong together on a page."""

    keys: list[str]
    meaning: str


class HelpPath(shapes.Shape):
    """One address of this server."""

    path: str
    meaning: str
    page: bool = Field(description="whether a browser gets a page there")
    twins: list[str] = Field(description="the same as JSON and as text")


class HelpExit(shapes.Shape):
    """One exit code of the client."""

    code: int
    meaning: str


class Help(shapes.Shape):
    """What everything means."""

    states: list[HelpState]
    keys: list[HelpKey]
    paths: list[HelpPath]
    exits: list[HelpExit]


async def show_help(request: web.Request) -> web.Response:
    """`GET /help`: states, keys, addresses, exit codes."""
    query(request, NoQuery)
    document = await asyncio.to_thread(request.app[OPENAPI])
    told = Help(
        states=[_state(state) for state in BuildState],
        keys=[HelpKey(keys=list(keys), meaning=meaning) for keys, meaning in KEYS],
        paths=_paths(document),
        exits=[HelpExit(code=code, meaning=meaning) for code, meaning in EXITS],
    )
    return await html.respond(
        request,
        told,
        lambda: _text(told),
        lambda: html.Page("help.html", "Help", {"help": told}),
    )


def _state(state: BuildState) -> HelpState:
    github = status_state(state)
    return HelpState(
        state=state,
        symbol=text.SYMBOLS[state],
        meaning=MEANINGS[state],
        github=None if github is None else str(github),
    )


def _paths(document: bytes) -> list[HelpPath]:
    """Every address that can be read, out of the document at `/openapi.json`."""
    reads = {
        path: operations["get"]
        for path, operations in json.loads(document)["paths"].items()
        if "get" in operations
    }
    twins: dict[str, list[str]] = {path: [] for path in reads}
    for path in reads:
        bare, dot, suffix = path.rpartition(".")
        page = INDEX.get(bare, bare)
        if dot + suffix in SUFFIXES and page in twins:
            twins[page].append(path)
            del twins[path]
    return [
        HelpPath(
            path=path,
            meaning=reads[path]["summary"],
            page="text/html" in reads[path]["responses"]["200"]["content"],
            twins=found,
        )
        for path, found in twins.items()
    ]


def _text(told: Help) -> str:
    states = [
        textwrap.fill(
            f"{one.symbol} {one.state:<10} {one.meaning}; "
            f"on GitHub: {one.github or 'nothing'}",
            text.WIDTH,
            subsequent_indent=" " * 13,
        )
        for one in told.states
    ]
    keys = [f"{', '.join(one.keys):<8} {one.meaning}" for one in told.keys]
    paths = [f"{one.path}\n    {one.meaning}" for one in told.paths]
    exits = [f"{one.code:>3}  {one.meaning}" for one in told.exits]
    parts = {
        "STATES": states,
        "ADDRESSES": paths,
        "EXIT CODES OF THE CLIENT": exits,
        "KEYS ON THE PAGES": keys,
    }
    return text.sections(parts)


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/help",
        show_help,
        "What every state, key, address and exit code means",
        {200: Answer("the help", (Help,), text=True, page=True)},
        twin="/help",
    ),
)
