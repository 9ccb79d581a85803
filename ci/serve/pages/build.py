"""The page of one build: `/builds/N`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from aiohttp import web

from ci.config import Repository
from ci.models import BuildState, Cause, Target
from ci.serve import html, shapes
from ci.serve.pages import build_text
from ci.serve.pages.build_facts import BuildPage, Facts, configured, gather
from ci.serve.pages.reproduce import commit_url
from ci.serve.parameters import NoQuery, build_number, query
from ci.serve.route import NUMBER, Answer, Route
from ci.serve.service import Service, service_of
from ci.serve.text import SYMBOLS

FOLDED = frozenset({BuildState.SUCCEEDED, BuildState.SKIPPED, BuildState.CANCELLED})
CAUSES: Mapping[str, str] = {
    Cause.PUSH: "push",
    Cause.TRIGGER: "asked for (trigger)",
    Cause.RECONCILE: "found by looking (reconcile)",
    Cause.UPDATE: "inputs of the flake updated (update)",
}

_BUILD = re.compile(r"(#[1-9][0-9]{0,15})\b")


async def show_build(request: web.Request) -> web.Response:
    """`GET /builds/{number}`."""
    query(request, NoQuery)
    service = service_of(request)
    facts = await gather(service, build_number(request))
    return await html.respond(
        request,
        facts.shape,
        lambda: build_text.render(facts),
        lambda: _page(service, facts),
    )


def _page(service: Service, facts: Facts) -> html.Page:
    from ci.serve import svg

    build = facts.build
    targets = build_text.in_order(build.targets)
    repository = configured(service.settings, build.repo)
    times = [svg.Part(step.name, step.seconds) for step in facts.times]
    context = {
        "facts": facts,
        "asks_token": service.api_token is not None,
        "causes": CAUSES,
        "commit_url": commit_url(repository, build),
        "said": _linked(_said(facts)),
        "opened": [each for each in targets if each.state not in FOLDED],
        "folded": [each for each in targets if each.state in FOLDED],
        "tally": _tally,
        "straight": _straight(facts, repository),
        "stacked": svg.stacked(times) if times else "",
    }
    return html.Page(
        "build.html",
        f"{SYMBOLS[build.state]} #{build.number} {build.branch or build.sha[:7]}",
        context,
        icon=html.ICONS.get(build.state, "none"),
        events=f"/builds/{build.number}/events",
        live=not build.state.final,
    )


def _said(facts: Facts) -> str:
    """The build's own sentence, where nothing below the verdict says the same."""
    build = facts.build
    told = build.state is BuildState.RUNNING or facts.excerpts
    return "" if told else build.summary


def _linked(sentence: str) -> list[tuple[str, str]]:
    """The sentence in pieces, with the address of each build that it names."""
    return [
        (piece, f"/builds/{piece[1:]}" if _BUILD.fullmatch(piece) else "")
        for piece in _BUILD.split(sentence)
        if piece
    ]


def _straight(facts: Facts, repository: Repository | None) -> int:
    """How many commands are shown at once: those of what failed, or else the first."""
    if repository is not None and repository.builder == "command":
        return len(facts.shape.reproduce)
    bad = (BuildState.FAILED, BuildState.ERROR)
    return max(1, sum(target.state in bad for target in facts.build.targets))


def _tally(targets: Iterable[Target]) -> list[tuple[BuildState, int]]:
    return list(Counter(target.state for target in targets).items())


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        NUMBER,
        show_build,
        "One build",
        {
            200: Answer("the build", (BuildPage,), text=True, page=True),
            404: Answer("no such build", (shapes.Error,)),
        },
        twin=NUMBER,
    ),
)
