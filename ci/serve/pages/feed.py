"""Atom feeds: one entry per finished build, or only those with which a branch turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote
from xml.etree import ElementTree as ET

from aiohttp import web
from pydantic import Field

from ci.history import finished
from ci.models import Build, human_seconds, rfc3339
from ci.serve import html
from ci.serve.pages.badge import fresh
from ci.serve.parameters import Flag, NameField, Query, StateField, query
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of
from ci.serve.text import SYMBOLS

ENTRIES = 50
ATOM = "http://www.w3.org/2005/Atom"
MEDIA = "application/atom+xml"
# The time of a feed in which nothing has happened yet.
NEVER = "1970-01-01T00:00:00.000Z"


class FeedQuery(Query):
    state: StateField = Field(None, description="only builds that ended so")
    changed: Flag = Field(
        False,
        description="1 for builds with which a branch broke or was mended, else 0",
    )


class RepositoryFeedQuery(FeedQuery):
    branch: NameField = Field(None, description="only builds on this branch")


class Named(Protocol):
    """A repository: its configured name and its branches."""

    @property
    def name(self) -> str: ...
    @property
    def branches(self) -> Sequence[str]: ...


async def whole_feed(request: web.Request) -> web.Response:
    """`GET /feed.atom`: what has ended lately in all repositories."""
    service, asked = service_of(request), query(request, FeedQuery)
    if asked.changed:
        branches = [
            (one.name, branch)
            for one in service.settings.repositories
            for branch in one.branches
        ]
        found = await service.database.read(
            finished.turned, branches, state=asked.state, limit=ENTRIES
        )
    else:
        found = await service.database.read(
            finished.finished, state=asked.state, limit=ENTRIES
        )
    return _answer(service, request, "build-server", "/", found)


async def of_repository(
    service: Service,
    request: web.Request,
    repository: Named,
    asked: RepositoryFeedQuery,
) -> web.Response:
    """The feed of one repository, or of one branch of it."""
    if asked.changed:
        branches = [asked.branch] if asked.branch else repository.branches
        found = await service.database.read(
            finished.turned,
            [(repository.name, branch) for branch in branches],
            state=asked.state,
            limit=ENTRIES,
        )
    else:
        found = await service.database.read(
            finished.finished,
            repo=repository.name,
            branch=asked.branch,
            state=asked.state,
            limit=ENTRIES,
        )
    title = " ".join(part for part in (repository.name, asked.branch) if part)
    page = f"/repos/{quote(repository.name)}"
    return _answer(service, request, title, page, found)


def _answer(
    service: Service,
    request: web.Request,
    title: str,
    page: str,
    found: Sequence[Build],
) -> web.Response:
    base = service.settings.public_url
    body = atom(base, title, base + page, base + str(request.rel_url), found)
    return fresh(request, body, MEDIA)


def atom(
    base: str, title: str, page: str, address: str, found: Sequence[Build]
) -> bytes:
    """The feed at `address`, of what is shown on `page`; `base` is the server's URL."""
    feed = ET.Element("feed", xmlns=ATOM)
    _say(feed, "id", address)
    _say(feed, "title", f"{title}: builds")
    _say(feed, "updated", max(map(_updated, found), default=NEVER))
    ET.SubElement(feed, "link", rel="self", type=MEDIA, href=_seen(address))
    ET.SubElement(feed, "link", rel="alternate", type="text/html", href=_seen(page))
    _say(ET.SubElement(feed, "author"), "name", "build-server")
    for build in found:
        _entry(feed, base, build)
    ET.indent(feed)
    whole: bytes = ET.tostring(feed, encoding="utf-8", xml_declaration=True)
    return whole + b"\n"


def _entry(feed: ET.Element, base: str, build: Build) -> None:
    url = f"{base}/builds/{build.number}"
    entry = ET.SubElement(feed, "entry")
    _say(entry, "id", url)
    where = f"{build.repo} {build.branch}" if build.branch else build.repo
    mark = SYMBOLS[build.state]
    _say(entry, "title", f"{mark} #{build.number} {build.state} {where}: {build.title}")
    _say(entry, "updated", _updated(build))
    _say(entry, "published", rfc3339(build.queued_at) or NEVER)
    ET.SubElement(entry, "link", rel="alternate", type="text/html", href=url)
    ET.SubElement(entry, "category", term=str(build.state))
    if build.author:
        _say(ET.SubElement(entry, "author"), "name", build.author)
    took = "" if build.seconds is None else f" in {human_seconds(build.seconds)}"
    told = [f"{build.state}{took}", build.sha[:7], build.summary]
    _say(entry, "summary", " · ".join(part for part in told if part))


def _updated(build: Build) -> str:
    return rfc3339(build.finished_at) or NEVER


def _say(parent: ET.Element, name: str, words: str) -> None:
    ET.SubElement(parent, name).text = _seen(words)


def _seen(words: str) -> str:
    """XML allows few control characters and no lone surrogates: all are escapes here."""
    return html.visible(words)


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/feed.atom",
        whole_feed,
        "What has ended lately, in all repositories",
        {
            200: Answer("an Atom feed", media=MEDIA),
            304: Answer("what the caller has is still so"),
        },
        query=FeedQuery,
    ),
)
