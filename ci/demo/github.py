"""A local stand-in for the one thing of GitHub's that the demo needs: commit statuses."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


class StandIn:
    """Answers `POST /repos/O/N/statuses/SHA` as GitHub does; tells `heard` of each."""

    def __init__(self, heard: Callable[[str, str, str], None]) -> None:
        self._heard = heard
        self._posted = 0

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post(
            "/repos/{owner}/{name}/statuses/{sha}", self._status
        )
        return application

    async def _status(self, request: web.Request) -> web.Response:
        body = await request.json()
        self._posted += 1
        self._heard(request.match_info["sha"], body["state"], body["description"])
        return web.json_response(
            {
                "id": self._posted,
                "state": body["state"],
                "context": body["context"],
                "description": body["description"],
                "target_url": body["target_url"],
            },
            status=201,
        )
