"""Stylesheet, scripts and icons: read once, at an address that changes with them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import hdrs, web

from ci.errors import RequestError
from ci.serve.parameters import NoQuery, query
from ci.serve.route import Answer, Route

FOLDER = Path(__file__).parent / "static"
STYLE = "style.css"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Assets:
    """Name -> content; `digest` names this state of all of them."""

    files: Mapping[str, bytes]
    digest: str

    def url(self, name: str) -> str:
        """Where a browser finds it; raises KeyError for a name that is none."""
        if name not in self.files:
            raise KeyError(name)
        return f"/static/{self.digest}/{name}"


@cache
def load() -> Assets:
    """All of them; reads the disk the first time. The parts of the style are joined."""
    files = {
        path.name: path.read_bytes()
        for path in sorted(FOLDER.iterdir())
        if path.suffix in TYPES
    }
    parts = sorted((FOLDER / "css").glob("*.css"))
    files[STYLE] = b"\n".join(path.read_bytes() for path in parts)
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    return Assets(files, digest.hexdigest()[:12])


async def asset(request: web.Request) -> web.Response:
    """`GET /static/{digest}/{name}`: kept by browsers for ever."""
    query(request, NoQuery)
    assets = await asyncio.to_thread(load)
    name = request.match_info["name"]
    if name not in assets.files:
        raise RequestError(404, f"there is no {name[:100]} among the pages' files")
    headers = {}
    if request.match_info["digest"] == assets.digest:
        headers[hdrs.CACHE_CONTROL] = "public, max-age=31536000, immutable"
    return web.Response(
        body=assets.files[name],
        content_type=TYPES[Path(name).suffix],
        charset="utf-8",
        headers=headers,
    )


ROUTES = (
    Route(
        "GET",
        "/static/{digest:[0-9a-f]+}/{name:[a-z.-]+}",
        asset,
        "What the pages look like",
        {200: Answer("the file")},
        hidden=True,
    ),
)
