"""cctray's XML, the old common language of build monitors: one Project for each branch.

Attributes and their words are those of https://cctray.org/v1/. A status is that of the
newest finished build; `Unknown` where there is none, or where it was cancelled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode
from xml.etree import ElementTree as ET

from aiohttp import web

from ci.history import builds
from ci.models import Build, BuildState, rfc3339
from ci.serve import html
from ci.serve.pages.badge import fresh
from ci.serve.pages.feed import NEVER
from ci.serve.parameters import NoQuery, query
from ci.serve.route import Answer, Route
from ci.serve.service import Service, service_of

MEDIA = "application/xml"
STATUS = {
    BuildState.SUCCEEDED: "Success",
    BuildState.FAILED: "Failure",
    BuildState.ERROR: "Exception",
}


@dataclass(frozen=True)
class Project:
    """One branch of a repository: whether it is built now, and its newest finished build."""

    repo: str
    branch: str
    building: bool
    last: Build | None


async def everything(request: web.Request) -> web.Response:
    """`GET /cc.xml`: every watched branch of every repository."""
    service = service_of(request)
    query(request, NoQuery)
    branches = [
        (repository.name, branch)
        for repository in service.settings.repositories
        for branch in repository.branches
    ]
    return await of_branches(service, request, branches)


async def of_branches(
    service: Service, request: web.Request, branches: Sequence[tuple[str, str]]
) -> web.Response:
    """How these branches (configured name, branch) stand, in this order."""
    found = await service.database.read(_projects, branches)
    return fresh(request, document(service.settings.public_url, found), MEDIA)


def document(base: str, projects: Sequence[Project]) -> bytes:
    """The XML; `base` is the server's URL."""
    root = ET.Element("Projects")
    for project in projects:
        ET.SubElement(root, "Project", _attributes(base, project))
    ET.indent(root)
    whole: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return whole + b"\n"


def _attributes(base: str, project: Project) -> dict[str, str]:
    last, where = project.last, urlencode({"branch": project.branch})
    return {
        "name": html.visible(f"{project.repo} {project.branch}"),
        "activity": "Building" if project.building else "Sleeping",
        "lastBuildStatus": STATUS.get(last.state, "Unknown") if last else "Unknown",
        "lastBuildLabel": str(last.number) if last else "",
        # Readers insist on a time, as they get from others for what was never built.
        "lastBuildTime": (rfc3339(last.finished_at) if last else None) or NEVER,
        "webUrl": f"{base}/repos/{quote(project.repo)}?{where}",
    }


def _projects(
    connection: sqlite3.Connection, branches: Sequence[tuple[str, str]]
) -> list[Project]:
    running = {(build.repo, build.branch) for build in builds.running(connection)}
    return [
        Project(
            repo,
            branch,
            (repo, branch) in running,
            builds.newest_finished(connection, repo, branch),
        )
        for repo, branch in branches
    ]


ROUTES: tuple[Route, ...] = (
    Route(
        "GET",
        "/cc.xml",
        everything,
        "How every watched branch stands, for build monitors (cctray)",
        {
            200: Answer("cctray's XML", media=MEDIA),
            304: Answer("what the caller has is still so"),
        },
    ),
)
